//! Responses that are made while nobody waits for them (`"background": true`), until they end and are in the store. What they cost
//! the engine is bounded by its queue, as any answer's cost; how many there are, and what is kept of them, is bounded here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dots_model::template::Message;
use tokio::{sync::oneshot, task::AbortHandle};

use super::{
    object::Response,
    store::{ResponseStore, Stored},
};
use crate::{error::ApiError, openai::to_json, shares::Shares};

/// Most of them that run at once.
const MAX_RUNS: usize = 1024;
/// Most bytes of what is kept of those.
const MAX_BYTES: usize = 64 << 20;
/// After which a client may ask again, where there are too many.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What runs.
#[derive(Debug)]
pub struct Background {
    runs: Mutex<Runs>,
}

#[derive(Debug)]
struct Runs {
    by_id: HashMap<String, Run>,
    places: Shares,
    bytes: Shares,
    /// Those that ended while the server stops: told when they are read.
    unread: HashMap<String, oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Run {
    tenant: u64,
    response: Response,
    /// As it can be read now.
    shown: Arc<Stored>,
    bytes: usize,
    task: AbortHandle,
}

impl Default for Background {
    fn default() -> Self {
        Self::with_limits(MAX_RUNS, MAX_BYTES)
    }
}

impl Background {
    fn with_limits(max_runs: usize, max_bytes: usize) -> Self {
        let (places, bytes) = (Shares::new(max_runs), Shares::new(max_bytes));
        Self { runs: Mutex::new(Runs { by_id: HashMap::new(), places, bytes, unread: HashMap::new() }) }
    }

    /// Runs `task`, which makes the answer to what was `said`, and returns the response as it is until then. Where too many run
    /// and `tenant` has its share of them, 429, and the task is dropped.
    pub fn begin(
        &self,
        tenant: u64,
        response: Response,
        said: Vec<Message>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Arc<Stored>, ApiError> {
        let shown = Arc::new(Stored { json: to_json(&response), said: Arc::new(said), answer: None, background: true });
        // The response is kept as it is and as its JSON.
        let bytes = shown.bytes() + shown.json.len();
        let mut runs = self.lock();
        if !runs.places.has_room(tenant, 1) || !runs.bytes.has_room(tenant, bytes) {
            let message = format!("{} responses run in the background already.", runs.by_id.len());
            return Err(ApiError::too_many(message, RETRY_AFTER));
        }
        // It waits for the lock before it ends.
        let task = tokio::spawn(task).abort_handle();
        runs.places.take(tenant, 1);
        runs.bytes.take(tenant, bytes);
        let id = response.id.clone();
        runs.by_id.insert(id, Run { tenant, response, shown: Arc::clone(&shown), bytes, task });
        Ok(shown)
    }

    /// The response's first token came.
    pub fn progress(&self, id: &str) {
        let mut runs = self.lock();
        let Some(run) = runs.by_id.get_mut(id) else { return };
        run.response.progress();
        let said = Arc::clone(&run.shown.said);
        run.shown = Arc::new(Stored { json: to_json(&run.response), said, answer: None, background: true });
    }

    /// The response as it is, where it runs and is of `tenant`.
    pub fn get(&self, tenant: u64, id: &str) -> Option<Arc<Stored>> {
        self.lock().by_id.get(id).filter(|run| run.tenant == tenant).map(|run| Arc::clone(&run.shown))
    }

    /// Moves a response to the store, ended by `end`, which returns the answer where there is one to go on from. Nothing where it
    /// runs no more. With `until_read` the receiver hears when somebody read it.
    pub fn end(
        &self,
        id: &str,
        store: &ResponseStore,
        until_read: bool,
        end: impl FnOnce(&mut Response) -> Option<Message>,
    ) -> Option<oneshot::Receiver<()>> {
        let mut runs = self.lock();
        let run = runs.remove(id)?;
        run.end(store, end);
        until_read.then(|| {
            let (tell, told) = oneshot::channel();
            runs.unread.insert(id.to_owned(), tell);
            told
        })
    }

    /// Stops a response of `tenant` and moves it to the store; nothing where it runs no more.
    pub fn cancel(&self, tenant: u64, id: &str, store: &ResponseStore) -> Option<Arc<Stored>> {
        let mut runs = self.lock();
        runs.by_id.get(id).filter(|run| run.tenant == tenant)?;
        let run = runs.remove(id)?;
        run.task.abort();
        Some(run.end(store, |response| {
            response.cancel();
            None
        }))
    }

    /// Stops a response of `tenant` and forgets it; whether one ran.
    pub fn remove(&self, tenant: u64, id: &str) -> bool {
        let mut runs = self.lock();
        let is_there = runs.by_id.get(id).is_some_and(|run| run.tenant == tenant);
        if is_there && let Some(run) = runs.remove(id) {
            run.task.abort();
        }
        is_there
    }

    /// Somebody was given the response as it ended.
    pub fn was_read(&self, id: &str) {
        if let Some(tell) = self.lock().unread.remove(id) {
            let _ = tell.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runs {
    fn remove(&mut self, id: &str) -> Option<Run> {
        let run = self.by_id.remove(id)?;
        self.places.give_back(run.tenant, 1);
        self.bytes.give_back(run.tenant, run.bytes);
        Some(run)
    }
}

impl Run {
    /// It is in the store before the runs' lock is given back, so that whoever asks finds it in one place or the other.
    fn end(self, store: &ResponseStore, end: impl FnOnce(&mut Response) -> Option<Message>) -> Arc<Stored> {
        let mut response = self.response;
        let answer = end(&mut response);
        let stored =
            Arc::new(Stored { json: to_json(&response), said: Arc::clone(&self.shown.said), answer, background: true });
        store.put(self.tenant, response.id, Arc::clone(&stored));
        stored
    }
}

#[cfg(test)]
mod tests {
    use dots_model::checkpoint::GenerationDefaults;
    use serde_json::{Value, json};

    use super::{super::request::ResponseRequest, *};

    fn response() -> Response {
        let body = json!({"input": "hello", "background": true});
        let request = ResponseRequest::parse(body.as_object().unwrap(), &GenerationDefaults::default()).unwrap();
        Response::begun("dots1".into(), &request)
    }

    fn said() -> Vec<Message> {
        vec![Message::new("user", "hello")]
    }

    fn id(stored: &Stored) -> String {
        serde_json::from_str::<Value>(&stored.json).unwrap()["id"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn count_and_bytes_are_bounded_and_given_back() {
        let (store, endless) = (ResponseStore::default(), std::future::pending::<()>);
        let runs = Background::with_limits(2, 1 << 20);
        let first = id(&runs.begin(1, response(), said(), endless()).unwrap());
        let second = id(&runs.begin(1, response(), said(), endless()).unwrap());
        assert_eq!(runs.begin(1, response(), said(), endless()).unwrap_err().parts().0, 429);
        assert!(runs.cancel(1, &first, &store).is_some() && runs.remove(1, &second));
        {
            let runs = runs.lock();
            assert!(runs.by_id.is_empty() && runs.bytes.all() == 0 && runs.places.all() == 0);
        }
        let large = vec![Message::new("user", "x".repeat(1 << 20))];
        assert_eq!(runs.begin(1, response(), large, endless()).unwrap_err().parts().0, 429);
        assert!(runs.begin(1, response(), said(), endless()).is_ok());
    }

    #[tokio::test]
    async fn one_who_runs_as_many_as_there_may_be_keeps_nobody_else_out() {
        let begin = |runs: &Background, tenant: u64, bytes: usize| {
            let said = vec![Message::new("user", "x".repeat(bytes))];
            runs.begin(tenant, response(), said, std::future::pending()).is_ok()
        };
        let few = Background::with_limits(4, 1 << 20);
        let one = |tenant: u64| begin(&few, tenant, 1);
        assert_eq!([(); 5].map(|()| one(1)), [true, true, true, true, false]);
        assert_eq!([(); 3].map(|()| one(2)), [true, true, false]);
        let small = Background::with_limits(100, 1 << 20);
        let with = |tenant: u64, bytes: usize| begin(&small, tenant, bytes);
        assert_eq!([with(1, 1_000_000), with(1, 100_000)], [true, false]);
        assert_eq!([with(2, 600_000), with(2, 400_000), with(2, 200_000)], [false, true, false]);
    }

    #[tokio::test]
    async fn one_that_ends_is_in_the_store_once_and_told_when_it_is_read() {
        let (store, runs) = (ResponseStore::default(), Background::default());
        let id = id(&runs.begin(1, response(), said(), std::future::pending()).unwrap());
        let mut told = runs.end(&id, &store, true, |_| Some(Message::new("assistant", "a"))).unwrap();
        assert!(runs.get(1, &id).is_none() && store.get(1, &id).unwrap().answer.is_some());
        assert!(told.try_recv().is_err());
        runs.was_read(&id);
        assert!(told.try_recv().is_ok());
        assert!(runs.end(&id, &store, true, |_| None).is_none() && runs.cancel(1, &id, &store).is_none());
        assert!(store.get(1, &id).unwrap().answer.is_some(), "it has ended only once");
    }
}
