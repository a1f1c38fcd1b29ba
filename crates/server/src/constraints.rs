//! Compiling what an answer must look like, where it holds up nobody.

use std::{sync::Arc, time::Duration};

use dots_engine::constraint::{Constraint, ConstraintError};
use tokio::sync::Semaphore;

use crate::{App, error::ApiError, openai::structured::Structure};

/// Forms that are compiled at once; others wait.
const AT_ONCE: usize = 2;
/// How long one may take. Its size and its work are bounded; this is for what the bounds forgot.
const LIMIT: Duration = Duration::from_secs(20);

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

/// Compiles a form; what is wrong with it is its author's 400.
pub async fn compile(app: &Arc<App>, structure: Option<Structure>) -> Result<Option<Constraint>, ApiError> {
    let Some(structure) = structure else { return Ok(None) };
    let param = structure.param.clone();
    let place = PLACES.acquire().await;
    let app = Arc::clone(app);
    let work = move || {
        // Given back when the work ends, not when the client hangs up.
        let _place = place;
        app.backend.compile(&structure.spec).map_err(|error| blame(&app, &structure, &error))
    };
    match tokio::time::timeout(LIMIT, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(compiled)) => compiled.map(Some),
        Ok(Err(error)) => {
            tracing::error!(%error, "compiling a form failed");
            Err(ApiError::internal("The answer's form could not be compiled. The reason is in the server's log."))
        }
        Err(_) => Err(refused(&param, &format!("compiling it takes longer than {} s", LIMIT.as_secs()))),
    }
}

/// Names the field that is wrong: a part's, where a part is wrong by itself.
fn blame(app: &App, structure: &Structure, error: &ConstraintError) -> ApiError {
    match error {
        ConstraintError::Tokenizer(_) => {
            tracing::error!(%error, "no form can be compiled");
            ApiError::internal("This model's answers cannot be held to a form. The reason is in the server's log.")
        }
        ConstraintError::Invalid(reason) => {
            let of_part = |part: &Structure| match app.backend.compile(&part.spec) {
                Err(ConstraintError::Invalid(reason)) => Some(refused(&part.param, &reason)),
                _ => None,
            };
            structure.parts.iter().find_map(of_part).unwrap_or_else(|| refused(&structure.param, reason))
        }
    }
}

fn refused(param: &str, reason: &str) -> ApiError {
    ApiError::invalid(param, "invalid_value", format!("'{param}' cannot be compiled: {reason}"))
}
