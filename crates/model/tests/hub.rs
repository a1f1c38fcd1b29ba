//! Hub names, resolved against a small hub on this machine.

mod support;

use std::{
    collections::{BTreeMap, HashSet},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use dots_model::{
    Checkpoint,
    hub::{Hub, Progress},
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one repository, `o/n`. A file in `breaks` ends in the middle the first time that it is asked for.
struct Served {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

fn serve(files: BTreeMap<String, Vec<u8>>, breaks: &[&str]) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let breaks: Mutex<HashSet<String>> = Mutex::new(breaks.iter().map(|file| (*file).to_owned()).collect());
    let state = Arc::new((files, breaks, requests.clone()));
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let state = state.clone();
            std::thread::spawn(move || answer(connection.unwrap(), &state.0, &state.1, &state.2));
        }
    });
    Served { endpoint, requests }
}

fn answer(
    mut connection: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    breaks: &Mutex<HashSet<String>>,
    requests: &Mutex<Vec<String>>,
) {
    let mut lines = BufReader::new(connection.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let found =
            headers.iter().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| value.to_owned())
    };
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let range = header("range").unwrap_or_default();
    requests.lock().unwrap().push(format!("{path} {range} {}", header("authorization").unwrap_or_default()));
    let reply = |connection: &mut TcpStream, status: &str, more: &str, body: &[u8], sent: usize| {
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{more}\r\n", body.len());
        let _ = connection.write_all(head.as_bytes());
        let _ = connection.write_all(&body[..sent]);
    };
    if path == "/api/models/o/n/revision/main" {
        let siblings: Vec<_> = files.keys().map(|file| serde_json::json!({"rfilename": file})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        return reply(&mut connection, "200 OK", "content-type: application/json\r\n", body.as_bytes(), body.len());
    }
    let file = path.strip_prefix(&format!("/o/n/resolve/{COMMIT}/"));
    let Some((file, bytes)) = file.and_then(|file| files.get_key_value(file)) else {
        return reply(&mut connection, "404 Not Found", "", b"", 0);
    };
    let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(bytes.len(), |last: usize| last + 1);
    if start >= bytes.len() {
        return reply(&mut connection, "416 Range Not Satisfiable", "", b"", 0);
    }
    let etag = file.replace('/', "-");
    let more = format!(
        "etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-range: bytes {start}-{}/{}\r\n",
        end - 1,
        bytes.len()
    );
    let body = &bytes[start..end];
    let broken = body.len() > 1 && breaks.lock().unwrap().remove(file);
    reply(&mut connection, "206 Partial Content", &more, body, if broken { body.len() / 2 } else { body.len() });
}

#[derive(Default)]
struct Told {
    files: Vec<String>,
    total: u64,
    done: u64,
    finished: usize,
}

impl Progress for Told {
    fn start(&mut self, file: &str, total_bytes: u64, done_bytes: u64) {
        self.files.push(file.to_owned());
        self.total += total_bytes;
        self.done += done_bytes;
    }
    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
    }
    fn finish(&mut self) {
        self.finished += 1;
    }
}

fn golden_files(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(support::golden(folder)).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

fn hub(served: &Served, cache: &tempfile::TempDir) -> Hub {
    Hub { endpoint: served.endpoint.clone(), cache: cache.path().to_owned(), token: None, offline: false }
}

#[test]
fn a_sharded_model_is_fetched_with_its_small_files_and_nothing_else() {
    let cache = tempfile::tempdir().unwrap();
    let served = serve(golden_files("hf"), &[]);
    let mut told = Told::default();
    let hub = Hub { token: Some("hf_secret".to_owned()), ..hub(&served, &cache) };
    let path = hub.resolve("o/n", &mut told).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert!(checkpoint.tokenizer.is_some());
    assert!(!told.files.contains(&"golden.json".to_owned()));
    assert_eq!((told.files.len(), told.finished, told.done), (7, 7, told.total));
    let requests = served.requests.lock().unwrap();
    assert!(requests.iter().all(|request| request.ends_with(" Bearer hf_secret")), "{requests:?}");
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let cache = tempfile::tempdir().unwrap();
    let files = golden_files("hf-fused");
    let size = files["model.safetensors"].len() as u64;
    let served = serve(files, &["model.safetensors"]);
    let mut told = Told::default();
    let path = hub(&served, &cache).resolve("o/n", &mut told).unwrap();
    Checkpoint::open(&path).unwrap();
    assert_eq!((told.finished, told.done), (told.files.len(), told.total));
    let resumed = format!("/o/n/resolve/{COMMIT}/model.safetensors bytes={}- ", size / 2);
    assert!(served.requests.lock().unwrap().contains(&resumed));
}

#[test]
fn parts_left_by_an_earlier_run_are_completed_or_replaced() {
    let bytes = golden_files("hf-fused")["model.safetensors"].clone();
    let too_long = [bytes.clone(), vec![0]].concat();
    for part in [&bytes[..1000], &bytes[..], &too_long] {
        let cache = tempfile::tempdir().unwrap();
        let blobs = cache.path().join("models--o--n/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        // hf-hub puts `.part` in place of what follows the last dot of the etag.
        std::fs::write(blobs.join("model.part"), part).unwrap();
        let served = serve(golden_files("hf-fused"), &[]);
        let path = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap();
        assert!(std::fs::read(path.join("model.safetensors")).unwrap() == bytes);
    }
}

#[test]
fn what_is_in_the_cache_is_used_offline_and_when_the_hub_is_gone() {
    let cache = tempfile::tempdir().unwrap();
    let served = serve(golden_files("hf-fused"), &[]);
    let online = hub(&served, &cache);
    let path = online.resolve("o/n", &mut Told::default()).unwrap();
    let offline = Hub { offline: true, endpoint: "http://127.0.0.1:1".to_owned(), ..hub(&served, &cache) };
    assert_eq!(offline.resolve("o/n", &mut Told::default()).unwrap(), path);
    let gone = Hub { endpoint: "http://127.0.0.1:1".to_owned(), ..hub(&served, &cache) };
    assert_eq!(gone.resolve("o/n", &mut Told::default()).unwrap(), path);
    let message = offline.resolve("o/other", &mut Told::default()).unwrap_err().to_string();
    assert!(message.starts_with("o/other: main of it is not in the cache at "), "{message}");
    assert!(message.ends_with("; HF_HUB_OFFLINE is set, so nothing is fetched"), "{message}");
    // A second time, the hub is asked for the commit alone.
    let before = served.requests.lock().unwrap().len();
    online.resolve("o/n", &mut Told::default()).unwrap();
    assert_eq!(served.requests.lock().unwrap().len(), before + 1);
}

#[test]
fn a_cache_without_all_files_is_not_used_offline() {
    let cache = tempfile::tempdir().unwrap();
    let served = serve(golden_files("hf"), &[]);
    let path = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap();
    std::fs::remove_file(path.join("model-00002-of-00002.safetensors")).unwrap();
    let offline = Hub { offline: true, ..hub(&served, &cache) };
    let message = offline.resolve("o/n", &mut Told::default()).unwrap_err().to_string();
    assert!(message.starts_with("o/n: model-00002-of-00002.safetensors is not in the cache"), "{message}");
}

#[test]
fn contents_that_the_cache_has_from_another_commit_are_linked() {
    let cache = tempfile::tempdir().unwrap();
    let served = serve(golden_files("hf-fused"), &[]);
    let path = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    let mut told = Told::default();
    Checkpoint::open(&hub(&served, &cache).resolve("o/n", &mut told).unwrap()).unwrap();
    assert_eq!(told.files, Vec::<String>::new());
}

#[test]
fn a_gguf_is_fetched_by_name() {
    let cache = tempfile::tempdir().unwrap();
    let file = std::fs::read(support::golden("gguf/dots1-Q2_K.gguf")).unwrap();
    let names = ["README.md", "Q2/dots-Q2_K.gguf", "dots-Q8_0.gguf"];
    let served = serve(names.iter().map(|name| ((*name).to_owned(), file.clone())).collect(), &[]);
    let mut told = Told::default();
    let path = hub(&served, &cache).resolve("o/n:Q2/dots-Q2_K.gguf", &mut told).unwrap();
    Checkpoint::open(&path).unwrap();
    assert_eq!(told.files, ["Q2/dots-Q2_K.gguf"]);
    let message = hub(&served, &cache).resolve("o/n", &mut told).unwrap_err().to_string();
    assert_eq!(message, "o/n: it holds several models; give one of\n  o/n:Q2/dots-Q2_K.gguf\n  o/n:dots-Q8_0.gguf");
}

#[test]
fn paths_win_and_what_is_neither_path_nor_name_is_told_so() {
    let cache = tempfile::tempdir().unwrap();
    let served = serve(BTreeMap::new(), &[]);
    let hub = hub(&served, &cache);
    let here = cache.path().to_str().unwrap();
    assert_eq!(hub.resolve(here, &mut Told::default()).unwrap(), cache.path());
    let message = hub.resolve("./no/such", &mut Told::default()).unwrap_err().to_string();
    assert!(message.starts_with("./no/such: no such file or folder, and no hub name either: give"), "{message}");
    let message = hub.resolve("o/absent", &mut Told::default()).unwrap_err().to_string();
    assert!(message.contains("/o/absent has no such repository or revision"), "{message}");
}
