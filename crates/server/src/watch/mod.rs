//! `dots watch`: a page that shows training runs while they run, or one file of it.
//!
//! `tail` follows a run's `metrics.jsonl`, `line` reads its lines, `record` keeps them in `buckets` of bounded number, and `view`
//! tells a page what it does not know yet. `follow` does this for one run's folder; nothing that a client sends names a file.

mod buckets;
mod follow;
mod html;
mod line;
mod record;
mod routers;
mod tail;
mod view;

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, State, rejection::PathRejection},
    http::{HeaderMap, Method, Uri, header},
    middleware,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::get,
};
use futures_core::Stream;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::sleep,
};

use crate::{
    drain::Drain,
    error::ApiError,
    listen::{self, House},
    local_names::{self, LocalNames},
    metrics::Metrics,
    options::{Limits, PlannedMemory},
    page,
};
use follow::Run;
use view::{Detail, LIVE, REPORT, Told};

/// Most runs side by side: each takes some 50 MB at most.
const MAX_RUNS: usize = 12;

/// Between two tellings of one page.
const PACE: Duration = Duration::from_secs(1);

/// Between two words on a quiet line.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Most pages, and a few connections for their questions.
const CONNECTIONS: usize = 64;

/// The page's own files.
const FILES: &[(&str, &[u8])] = &[
    ("app.js", include_bytes!("page/app.js")),
    ("cards.js", include_bytes!("page/cards.js")),
    ("charts.js", include_bytes!("page/charts.js")),
    ("colour.js", include_bytes!("page/colour.js")),
    ("feed.js", include_bytes!("page/feed.js")),
    ("heat.js", include_bytes!("page/heat.js")),
    ("index.html", include_bytes!("page/index.html")),
    ("plot.js", include_bytes!("page/plot.js")),
    ("scale.js", include_bytes!("page/scale.js")),
    ("watch.css", include_bytes!("page/watch.css")),
    ("words-en.js", include_bytes!("page/words-en.js")),
    ("words-ko.js", include_bytes!("page/words-ko.js")),
    ("words-zh.js", include_bytes!("page/words-zh.js")),
];

/// What it shares with the chat.
const SHARED: &[&str] = &["dom.js", "first.js", "icon.svg", "style.css", "words.js"];

/// Why a run cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such folder.
    #[error("{0}: expected a run's folder, found none")]
    NoFolder(PathBuf),
    /// It is no run's.
    #[error("{0}: expected a run's folder with metrics.jsonl, run.json or recipe.toml, found neither of them")]
    NoRun(PathBuf),
    /// They are too many.
    #[error("expected {MAX_RUNS} runs at most, found {0}")]
    TooMany(usize),
}

/// Runs that are watched.
pub struct Watch {
    runs: Vec<Arc<Run>>,
    version: watch::Sender<u64>,
}

impl Watch {
    /// Of these folders, none of which is read yet.
    pub fn new(folders: &[PathBuf]) -> Result<Self, RunError> {
        if folders.len() > MAX_RUNS {
            return Err(RunError::TooMany(folders.len()));
        }
        folders.iter().try_for_each(|folder| check(folder))?;
        let runs = folders.iter().map(|folder| Arc::new(Run::new(folder))).collect();
        Ok(Self { runs, version: watch::Sender::new(0) })
    }

    /// The page in one file that needs no server, as the runs are now.
    pub fn html(&self) -> String {
        self.runs.iter().for_each(|run| run.read_all());
        let runs: Vec<Value> =
            (0..self.runs.len()).map(|index| self.news(index, &mut Told::default(), REPORT)).collect();
        html::page(&Value::Array(runs))
    }

    /// Serves the page until `shutdown` completes.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        for run in &self.runs {
            let (run, version) = (Arc::downgrade(run), self.version.clone());
            std::thread::spawn(move || follow::follow(&run, &version));
        }
        let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
        let house = House {
            limits: Limits { connections: CONNECTIONS, ..Limits::default() },
            tls: None,
            metrics: Arc::new(Metrics::new("", 0, PlannedMemory::default())),
            drain: Arc::new(Drain::default()),
            longest_drain: Duration::ZERO,
        };
        listen::serve(listener, router(Arc::new(self), is_local), house, shutdown).await;
    }

    fn news(&self, index: usize, told: &mut Told, detail: Detail) -> Value {
        let mut news = self.runs[index].news(told, detail);
        news.insert("run".to_owned(), json!(index));
        news.insert("runs".to_owned(), json!(self.runs.len()));
        Value::Object(news)
    }
}

fn check(folder: &Path) -> Result<(), RunError> {
    if !folder.is_dir() {
        return Err(RunError::NoFolder(folder.to_owned()));
    }
    match ["metrics.jsonl", "run.json", "recipe.toml"].iter().any(|name| folder.join(name).exists()) {
        true => Ok(()),
        false => Err(RunError::NoRun(folder.to_owned())),
    }
}

fn router(watch: Arc<Watch>, is_local: bool) -> Router {
    let router = Router::new()
        .route("/", get(index))
        .route("/page/{file}", get(file))
        .route("/changes", get(changes))
        .route("/view/{run}/{from}/{to}", get(view_of))
        .fallback(async |method: Method, uri: Uri| ApiError::unknown_url(&method, &uri))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| ApiError::method_not_allowed(&method, &uri))
        .with_state(watch);
    match is_local {
        true => router.layer(middleware::from_fn_with_state(Arc::<LocalNames>::default(), local_names::ask)),
        false => router,
    }
}

fn find(name: &str) -> Option<(&'static str, &'static [u8])> {
    match SHARED.contains(&name) {
        true => page::find(name),
        false => FILES.iter().find(|(known, _)| *known == name).copied(),
    }
}

async fn index(headers: HeaderMap) -> Response {
    let (name, bytes) = find("index.html").expect("the list of files has the index");
    page::answer(name, bytes, &headers)
}

async fn file(
    name: Result<UrlPath<String>, PathRejection>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    match name.ok().and_then(|UrlPath(name)| find(&name)) {
        None | Some(("index.html", _)) => Err(ApiError::unknown_url(&method, &uri)),
        Some((name, bytes)) => Ok(page::answer(name, bytes, &headers)),
    }
}

/// What lies between two steps of a run.
async fn view_of(
    State(watch): State<Arc<Watch>>,
    wanted: Result<UrlPath<(usize, u64, u64)>, PathRejection>,
    method: Method,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Ok(UrlPath((run, from, to))) = wanted else { return Err(ApiError::unknown_url(&method, &uri)) };
    let Some(run) = watch.runs.get(run) else { return Err(ApiError::unknown_url(&method, &uri)) };
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, Json(run.between(from, to))).into_response())
}

/// All that is known, and from then on what changes.
async fn changes(State(watch): State<Arc<Watch>>) -> Response {
    // One waits to be sent: whoever reads slowly is told less often, not late.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(tell(Arc::downgrade(&watch), watch.version.subscribe(), sender));
    Sse::new(Telling(receiver)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

async fn tell(watch: std::sync::Weak<Watch>, mut version: watch::Receiver<u64>, sender: mpsc::Sender<String>) {
    let mut told: Vec<Told> = Vec::new();
    loop {
        version.mark_unchanged();
        let Some(count) = watch.upgrade().map(|watch| watch.runs.len()) else { return };
        told.resize_with(count, Told::default);
        for (index, told) in told.iter_mut().enumerate() {
            let Ok(place) = sender.reserve().await else { return };
            let Some(watch) = watch.upgrade() else { return };
            place.send(watch.news(index, told, LIVE).to_string());
        }
        tokio::select! {
            () = sender.closed() => return,
            // The state changes with time alone, too.
            _ = tokio::time::timeout(KEEP_ALIVE, version.changed()) => {}
        }
        sleep(PACE).await;
    }
}

/// What one page is told, as events.
struct Telling(mpsc::Receiver<String>);

impl Stream for Telling {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|told| told.map(|told| Ok(Event::default().data(told))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text(name: &str) -> &'static str {
        std::str::from_utf8(find(name).unwrap().1).unwrap()
    }

    #[test]
    fn every_file_of_the_page_is_served_and_names_only_what_is_there() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/watch/page");
        let beside: BTreeSet<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(FILES.iter().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>(), beside);
        for (name, _) in FILES {
            let text = text(name);
            for way in
                ["http://", "https://", "//cdn", "@import", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval("]
            {
                assert!(!text.contains(way), "{name}: {way}");
            }
            for import in text.lines().filter(|line| line.starts_with("import ")) {
                let from = import.split('"').nth(1).unwrap_or_else(|| panic!("{name}: {import}"));
                assert!(find(from.trim_start_matches("./")).is_some(), "{name}: {import}");
            }
        }
        let links = text("index.html").split('"').filter_map(|part| part.strip_prefix("page/"));
        assert!(links.clone().count() >= 5);
        links.for_each(|link| assert!(find(link).is_some(), "{link}"));
    }

    #[test]
    fn every_language_has_every_word() {
        let keys = |name: &str| -> BTreeSet<&str> {
            text(name).lines().filter_map(|line| Some(line.strip_prefix("  ")?.split_once(':')?.0)).collect()
        };
        assert!(keys("words-en.js").len() > 50);
        assert_eq!(keys("words-en.js"), keys("words-ko.js"));
        assert_eq!(keys("words-en.js"), keys("words-zh.js"));
    }

    #[test]
    fn what_is_no_run_is_not_watched() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |folders: &[PathBuf]| Watch::new(folders).err().unwrap().to_string();
        assert!(refused(&[folder.path().join("none")]).ends_with("expected a run's folder, found none"));
        assert!(refused(&[folder.path().to_owned()]).contains("metrics.jsonl"));
        assert!(refused(&vec![PathBuf::new(); 13]).contains("12 runs at most"));
        std::fs::write(folder.path().join("recipe.toml"), "").unwrap();
        assert!(Watch::new(&[folder.path().to_owned()]).is_ok());
    }
}
