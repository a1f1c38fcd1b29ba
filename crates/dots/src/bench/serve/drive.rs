//! The run itself: requests go out as the load says, until all have ended or somebody stops it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    client::Client,
    live::Counts,
    record::{Outcome, Record},
    schedule::{self, Load},
    work::Asked,
};

/// What every request of a run shares.
pub struct Run {
    pub client: Client,
    pub path: &'static str,
    pub requests: Vec<Asked>,
    pub counts: Arc<Counts>,
    /// Becomes true when the run is to be stopped.
    pub stop: watch::Receiver<bool>,
}

/// Sends all requests, and returns those that went out, in that order. Where the run is stopped, requests that were running are
/// among them, as far as they came.
pub async fn drive(run: Run, load: Load, seed: u64) -> Vec<Record> {
    let run = Arc::new(run);
    let begun = Instant::now();
    let mut records = match load {
        Load::Closed { concurrency } => closed(&run, begun, concurrency).await,
        Load::Open { requests_per_second } => open(&run, begun, schedule::arrivals(requests_per_second, seed)).await,
    };
    records.sort_by_key(|record| record.index);
    records
}

async fn closed(run: &Arc<Run>, begun: Instant, concurrency: usize) -> Vec<Record> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut users = JoinSet::new();
    for _ in 0..concurrency.min(run.requests.len()) {
        let (run, next) = (Arc::clone(run), Arc::clone(&next));
        users.spawn(async move {
            let mut records = Vec::new();
            while !*run.stop.borrow() {
                let index = next.fetch_add(1, Relaxed);
                let Some(asked) = run.requests.get(index) else { break };
                records.push(run.request(index, asked, begun).await);
            }
            records
        });
    }
    let mut all = Vec::with_capacity(run.requests.len());
    while let Some(records) = users.join_next().await {
        all.extend(records.unwrap_or_default());
    }
    all
}

async fn open(run: &Arc<Run>, begun: Instant, arrivals: impl Iterator<Item = Duration>) -> Vec<Record> {
    let mut running = JoinSet::new();
    let mut stop = run.stop.clone();
    let mut all = Vec::new();
    for (index, arrival) in arrivals.take(run.requests.len()).enumerate() {
        // A time that no clock reaches is never, until somebody stops the run.
        let due = begun.checked_add(arrival).unwrap_or_else(|| begun + Duration::from_secs(1 << 30));
        tokio::select! {
            biased;
            _ = stopped(&mut stop) => break,
            _ = sleep_until(due) => {}
        }
        let run = Arc::clone(run);
        running.spawn(async move { run.request(index, &run.requests[index], begun).await });
        // What has ended need not wait until all have begun.
        while let Some(record) = running.try_join_next() {
            all.extend(record.ok());
        }
    }
    while let Some(record) = running.join_next().await {
        all.extend(record.ok());
    }
    all
}

impl Run {
    async fn request(&self, index: usize, asked: &Asked, begun: Instant) -> Record {
        let (length, body) = (asked.length, asked.body.clone());
        let start = Instant::now();
        let mut record = Record { index, asked: length, start: (start - begun).as_secs_f64(), ..Record::default() };
        let mut stop = self.stop.clone();
        self.counts.began();
        let ended = tokio::select! {
            _ = self.client.stream(self.path, body, &mut record, || self.counts.text()) => true,
            _ = stopped(&mut stop) => false,
        };
        if !ended {
            record.e2e = start.elapsed().as_secs_f64();
            record.outcome = Outcome::Stopped;
        }
        self.counts.ended(&record.outcome);
        record
    }
}

/// Completes when the run is stopped.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Where nobody is left who could stop it, nobody does.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}
