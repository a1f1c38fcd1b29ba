//! `POST /v1/embeddings`: the model's hidden states as vectors of length 1.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request as HttpRequest, State},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dots_engine::{Pooling as EnginePooling, Request};
use serde::Serialize;

use super::{PromptUsage, off_runtime};
use crate::{
    App,
    answer::{Choices, collect},
    body,
    error::ApiError,
    openai::{
        completion_request::Prompt,
        embedding_request::{EmbeddingRequest, Encoding, Pooling},
    },
};

#[derive(Serialize)]
struct Embeddings {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: PromptUsage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Written,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Numbers(Vec<f32>),
    Base64(String),
}

struct Prepared {
    model: String,
    prompts: Vec<Vec<u32>>,
    pooling: Pooling,
    encoding: Encoding,
}

/// Turns texts into vectors.
pub async fn create(State(app): State<Arc<App>>, request: HttpRequest) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let reader = Arc::clone(&app);
    let Prepared { model, prompts, pooling, encoding } =
        off_runtime(body.len(), move || prepare(&reader, &body)).await?;
    let count = prompts.len();
    app.metrics.requests.asked(count);
    let streams = prompts.into_iter().map(|prompt| {
        let pooling = Some(match pooling {
            Pooling::Mean => EnginePooling::Mean,
            Pooling::Last => EnginePooling::Last,
        });
        let request = Request { prompt, max_tokens: Some(0), pooling, ..Request::default() };
        app.submit(request).map_err(|error| ApiError::refused(&error, "input"))
    });
    let answers = collect(Choices::new(streams.collect::<Result<_, _>>()?), count).await?;
    let prompt_tokens = answers.iter().map(|answer| answer.finish.prompt_tokens).sum();
    let data = answers.into_iter().enumerate().map(|(index, answer)| Embedding {
        object: "embedding",
        index,
        embedding: written(of_length_one(answer.embedding), encoding),
    });
    let usage = PromptUsage { prompt_tokens, total_tokens: prompt_tokens };
    Ok(Json(Embeddings { object: "list", data: data.collect(), model, usage }).into_response())
}

fn prepare(app: &App, body: &[u8]) -> Result<Prepared, ApiError> {
    let request = EmbeddingRequest::parse(&body::parse(body)?)?;
    let model = app.model_name(request.model.as_deref())?;
    let prompts = request.inputs.into_iter().map(|input| match input {
        Prompt::Text(text) => app.backend.encode_text(&text),
        Prompt::Ids(ids) => ids,
    });
    Ok(Prepared { model, prompts: prompts.collect(), pooling: request.pooling, encoding: request.encoding })
}

/// As OpenAI's are, so that a dot product is a cosine.
fn of_length_one(vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if length == 0.0 {
        return vector;
    }
    vector.into_iter().map(|x| (f64::from(x) / length) as f32).collect()
}

fn written(vector: Vec<f32>, encoding: Encoding) -> Written {
    match encoding {
        Encoding::Float => Written::Numbers(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Written::Base64(STANDARD.encode(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_travel_in_little_endian() {
        assert_eq!(of_length_one(vec![3.0, -4.0]), [0.6, -0.8]);
        assert_eq!(of_length_one(vec![0.0, 0.0]), [0.0, 0.0]);
        let Written::Base64(text) = written(vec![1.0, -2.0], Encoding::Base64) else { panic!("a text") };
        assert_eq!(STANDARD.decode(text).unwrap(), [0, 0, 128, 63, 0, 0, 0, 192]);
    }
}
