//! Hub names, resolved against a small hub on this machine.

mod support;

use std::{
    collections::{BTreeMap, HashSet},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use dots_model::{
    Checkpoint,
    hub::{Hub, Progress},
};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How a hub with one repository, `o/n`, behaves, beside serving files.
#[derive(Default)]
struct Manners {
    /// Files whose connection ends in the middle the first time that they are asked for.
    breaks: Mutex<HashSet<String>>,
    /// Files of which half comes the first time, and then nothing while the connection stays.
    stalls: Mutex<HashSet<String>>,
    /// Names of contents; else the file's name, a `-` for each `/`.
    etags: BTreeMap<String, String>,
    /// The etag and the commit of each answer about a file but the first; `None` for the right ones.
    later: Option<(String, String)>,
    /// Bytes that are said to be there beside those that are.
    extra_bytes: usize,
    /// Whether a body ends with its connection instead of saying its length.
    no_length: bool,
    /// Whether ranges are not known: the whole file comes with status 200.
    no_ranges: bool,
    /// Status and headers of the answer to each request for a file, in place of the file.
    redirect: Option<String>,
}

struct Served {
    endpoint: String,
    /// Method, path, range and authorization of each request.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Served {
    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(files: BTreeMap<String, Vec<u8>>, manners: Manners) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let state = Arc::new((files, manners, requests.clone()));
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
    manners: &Manners,
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
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let range = header("range").unwrap_or_default();
    let authorization = header("authorization").unwrap_or_default();
    let earlier = {
        let mut requests = requests.lock().unwrap();
        requests.push(format!("{method} {path} {range} {authorization}"));
        requests.iter().filter(|request| request.contains(&format!(" {path} "))).count() - 1
    };
    let mut reply = |head: &str, body: &[u8], sent: usize| {
        let _ = connection.write_all(format!("HTTP/1.1 {head}connection: close\r\n\r\n").as_bytes());
        if method == "GET" {
            let _ = connection.write_all(&body[..sent]);
        }
    };
    if path == "/api/models/o/n/revision/main" {
        let siblings: Vec<_> = files.keys().map(|file| serde_json::json!({"rfilename": file})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        let head = format!("200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
        return reply(&head, body.as_bytes(), body.len());
    }
    let stored = path.strip_prefix("/stored/");
    let file = stored.or_else(|| path.strip_prefix(&format!("/o/n/resolve/{COMMIT}/")));
    let Some((file, bytes)) = file.and_then(|file| files.get_key_value(file)) else {
        return reply("404 Not Found\r\ncontent-length: 0\r\n", b"", 0);
    };
    let etag = manners.etags.get(file).cloned().unwrap_or_else(|| file.replace('/', "-"));
    if let (None, Some(redirect)) = (stored, &manners.redirect) {
        let redirect = redirect.replace("FILE", file).replace("ETAG", &etag);
        return reply(&redirect.replace("SIZE", &bytes.len().to_string()), b"", 0);
    }
    let (start, end) = match range.strip_prefix("bytes=").filter(|_| !manners.no_ranges) {
        Some(range) => {
            let (start, last) = range.split_once('-').unwrap();
            (start.parse().unwrap(), last.parse().map_or(bytes.len(), |last: usize| last + 1))
        }
        None => (0, bytes.len()),
    };
    if start >= bytes.len() {
        return reply("416 Range Not Satisfiable\r\ncontent-length: 0\r\n", b"", 0);
    }
    let body = &bytes[start..end];
    let total = bytes.len() + manners.extra_bytes;
    let mut head = match range.is_empty() || manners.no_ranges {
        true => "200 OK\r\n".to_owned(),
        false => {
            let last = if end == bytes.len() { total - 1 } else { end - 1 };
            format!("206 Partial Content\r\ncontent-range: bytes {start}-{last}/{total}\r\n")
        }
    };
    if stored.is_none() {
        let (etag, commit) = match &manners.later {
            Some((etag, commit)) if earlier > 0 => (etag.as_str(), commit.as_str()),
            _ => (etag.as_str(), COMMIT),
        };
        head += &format!("etag: \"{etag}\"\r\nx-repo-commit: {commit}\r\nx-linked-size: {total}\r\n");
    }
    if !manners.no_length {
        head += &format!("content-length: {}\r\n", body.len());
    }
    let begun =
        |files: &Mutex<HashSet<String>>| method == "GET" && body.len() > 1 && files.lock().unwrap().remove(file);
    if begun(&manners.breaks) {
        reply(&head, body, body.len() / 2);
    } else if begun(&manners.stalls) {
        reply(&head, body, body.len() / 2);
        std::thread::sleep(Duration::from_secs(60));
    } else {
        reply(&head, body, body.len());
    }
}

#[derive(Default)]
struct Told {
    checked: Vec<(String, u64)>,
    files: Vec<String>,
    total: u64,
    done: u64,
    finished: usize,
}

impl Progress for Told {
    fn check(&mut self, file: &str, part_bytes: u64) {
        self.checked.push((file.to_owned(), part_bytes));
        self.total += part_bytes;
    }
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
    Hub {
        endpoint: served.endpoint.clone(),
        cache: cache.path().to_owned(),
        token: None,
        offline: false,
        read_timeout: Duration::from_millis(500),
    }
}

fn once(file: &str) -> Mutex<HashSet<String>> {
    Mutex::new(HashSet::from([file.to_owned()]))
}

/// A repository of one model, small enough that all of it is one file.
fn gguf_files() -> BTreeMap<String, Vec<u8>> {
    let file = std::fs::read(support::golden("gguf/dots1-Q2_K.gguf")).unwrap();
    BTreeMap::from([("dots.gguf".to_owned(), file)])
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files below `folder`, links too.
fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_below(&entry.path())),
            false => found.push(entry.path().to_str().unwrap().to_owned()),
        }
    }
    found.sort();
    found
}

#[test]
fn a_sharded_model_is_fetched_with_its_small_files_and_nothing_else() {
    let cache = tempfile::tempdir().unwrap();
    let served = serve(golden_files("hf"), Manners::default());
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
    let served = serve(files, Manners { breaks: once("model.safetensors"), ..Manners::default() });
    let mut told = Told::default();
    let path = hub(&served, &cache).resolve("o/n", &mut told).unwrap();
    Checkpoint::open(&path).unwrap();
    assert_eq!((told.finished, told.done), (told.files.len(), told.total));
    let resumed = format!("GET /o/n/resolve/{COMMIT}/model.safetensors bytes={}- ", size / 2);
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
        std::fs::write(blobs.join("model.safetensors.part"), part).unwrap();
        let served = serve(golden_files("hf-fused"), Manners::default());
        let path = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap();
        assert!(std::fs::read(path.join("model.safetensors")).unwrap() == bytes);
    }
}

#[test]
fn what_is_in_the_cache_is_used_offline_and_when_the_hub_is_gone() {
    let cache = tempfile::tempdir().unwrap();
    let served = serve(golden_files("hf-fused"), Manners::default());
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
    let served = serve(golden_files("hf"), Manners::default());
    let path = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap();
    std::fs::remove_file(path.join("model-00002-of-00002.safetensors")).unwrap();
    let offline = Hub { offline: true, ..hub(&served, &cache) };
    let message = offline.resolve("o/n", &mut Told::default()).unwrap_err().to_string();
    assert!(message.starts_with("o/n: model-00002-of-00002.safetensors is not in the cache"), "{message}");
}

#[test]
fn a_reference_that_leads_out_of_the_cache_is_none() {
    let cache = tempfile::tempdir().unwrap();
    let elsewhere = cache.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("dots.gguf"), "").unwrap();
    for folder in ["refs", "snapshots"] {
        std::fs::create_dir_all(cache.path().join("models--o--n").join(folder)).unwrap();
    }
    std::fs::write(cache.path().join("models--o--n/refs/main"), "../../elsewhere").unwrap();
    let offline = Hub { offline: true, ..hub(&serve(BTreeMap::new(), Manners::default()), &cache) };
    let message = offline.resolve("o/n", &mut Told::default()).unwrap_err().to_string();
    assert!(message.starts_with("o/n: main of it is not in the cache at "), "{message}");
}

#[test]
fn contents_that_the_cache_has_from_another_commit_are_linked() {
    let cache = tempfile::tempdir().unwrap();
    let served = serve(golden_files("hf-fused"), Manners::default());
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
    let served = serve(names.iter().map(|name| ((*name).to_owned(), file.clone())).collect(), Manners::default());
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
    let served = serve(BTreeMap::new(), Manners::default());
    let hub = hub(&served, &cache);
    let here = cache.path().to_str().unwrap();
    assert_eq!(hub.resolve(here, &mut Told::default()).unwrap(), cache.path());
    let message = hub.resolve("./no/such", &mut Told::default()).unwrap_err().to_string();
    assert!(message.starts_with("./no/such: no such file or folder, and no hub name either: give"), "{message}");
    let message = hub.resolve("o/absent", &mut Told::default()).unwrap_err().to_string();
    assert!(message.contains("/o/absent has no such repository or revision"), "{message}");
}

#[test]
fn only_the_first_answer_about_a_file_names_its_place_in_the_cache() {
    let outside = tempfile::tempdir().unwrap();
    let precious = outside.path().join("precious");
    std::fs::write(&precious, "mine").unwrap();
    let evil = [(precious.to_str().unwrap(), COMMIT), ("dots.gguf", "../../../elsewhere"), ("../../x", COMMIT)];
    for (etag, commit) in evil {
        let cache = tempfile::tempdir().unwrap();
        let later = Some((etag.to_owned(), commit.to_owned()));
        let served = serve(gguf_files(), Manners { later, ..Manners::default() });
        let path = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap();
        Checkpoint::open(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "mine");
        let places = ["blobs/dots.gguf", "blobs/dots.gguf.lock", "refs/main", &format!("snapshots/{COMMIT}/dots.gguf")]
            .map(|place| cache.path().join("models--o--n").join(place).to_str().unwrap().to_owned());
        assert_eq!(files_below(cache.path()), places, "{etag} {commit}");
    }
    assert_eq!(files_below(outside.path()), [precious.to_str().unwrap()]);
}

#[test]
fn an_etag_that_cannot_name_a_file_is_refused() {
    for etag in ["/etc/dots", "../x", ".hidden", "a b", ""] {
        let cache = tempfile::tempdir().unwrap();
        let etags = BTreeMap::from([("dots.gguf".to_owned(), etag.to_owned())]);
        let served = serve(gguf_files(), Manners { etags, ..Manners::default() });
        let message = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap_err().to_string();
        let expected =
            format!("etag: expected letters, digits, dots, _ and -, no dot first, found {etag:?}; set HF_END");
        assert!(message.contains(&expected), "{message}");
        assert_eq!(files_below(cache.path()), Vec::<String>::new());
    }
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let bytes = gguf_files()["dots.gguf"].clone();
    let store = serve(gguf_files(), Manners::default());
    // Another name of the same host, the same name with another port, and the hub itself by a path.
    let port = store.endpoint.rsplit_once(':').unwrap().1;
    for (host, is_own) in
        [(format!("http://localhost:{port}"), false), (store.endpoint.clone(), false), (String::new(), true)]
    {
        store.requests.lock().unwrap().clear();
        let cache = tempfile::tempdir().unwrap();
        let told =
            format!("etag: \"of the redirect\"\r\nx-linked-etag: \"{}\"\r\nx-linked-size: SIZE\r\n", sha256(&bytes));
        let redirect = format!(
            "302 Found\r\nlocation: {host}/stored/FILE\r\nx-repo-commit: {COMMIT}\r\n{told}content-length: 0\r\n"
        );
        let served = serve(gguf_files(), Manners { redirect: Some(redirect), ..Manners::default() });
        let hub = Hub { token: Some("hf_secret".to_owned()), ..hub(&served, &cache) };
        Checkpoint::open(&hub.resolve("o/n", &mut Told::default()).unwrap()).unwrap();
        assert!(served.requests().iter().all(|request| request.ends_with(" Bearer hf_secret")));
        let stored = if is_own { served.requests() } else { store.requests() };
        let stored: Vec<&String> = stored.iter().filter(|request| request.contains("/stored/")).collect();
        assert!(!stored.is_empty());
        assert!(stored.iter().all(|request| request.contains("hf_secret") == is_own), "{host}: {stored:?}");
    }
}

#[test]
fn redirects_to_nowhere_and_for_ever_are_errors() {
    let elsewhere = "expected an http:// or https:// address, or a path on the same host, found";
    for (location, expected) in [
        ("", format!("location: {elsewhere} nothing; set HF_ENDPOINT to another hub")),
        ("location: file:///etc/passwd\r\n", format!("location: {elsewhere} \"file:///etc/passwd\"; set")),
        (
            "location: /o/n/resolve/COMMIT/FILE\r\n",
            "location: expected at most 10 redirects, found more; set".to_owned(),
        ),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let told = format!("x-repo-commit: {COMMIT}\r\nx-linked-etag: \"ETAG\"\r\nx-linked-size: SIZE\r\n");
        let redirect = format!("302 Found\r\n{}{told}content-length: 0\r\n", location.replace("COMMIT", COMMIT));
        let served = serve(gguf_files(), Manners { redirect: Some(redirect), ..Manners::default() });
        let message = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap_err().to_string();
        assert!(message.contains(&expected), "{message}");
        assert!(!message.contains("run this again"), "{message}");
    }
}

#[test]
fn a_connection_that_falls_silent_counts_as_broken() {
    let cache = tempfile::tempdir().unwrap();
    let size = gguf_files()["dots.gguf"].len();
    let served = serve(gguf_files(), Manners { stalls: once("dots.gguf"), ..Manners::default() });
    Checkpoint::open(&hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap()).unwrap();
    let resumed = format!("GET /o/n/resolve/{COMMIT}/dots.gguf bytes={}- ", size / 2);
    assert!(served.requests().contains(&resumed), "{:?}", served.requests());
}

#[test]
fn a_length_that_no_body_has_ends_the_download() {
    for no_length in [false, true] {
        let cache = tempfile::tempdir().unwrap();
        let served = serve(gguf_files(), Manners { extra_bytes: 1000, no_length, ..Manners::default() });
        let message = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap_err().to_string();
        let expected = if no_length { "found no byte " } else { "content-length: expected " };
        assert!(message.contains(expected), "{message}");
        assert!(message.ends_with("set HF_ENDPOINT to another hub, or tell those who run this one"), "{message}");
        assert!(served.requests().len() < 6, "{:?}", served.requests());
        assert!(!cache.path().join("models--o--n/blobs/dots.gguf").exists());
    }
}

#[test]
fn a_server_without_ranges_begins_again() {
    let cache = tempfile::tempdir().unwrap();
    let bytes = gguf_files()["dots.gguf"].clone();
    let manners = Manners { breaks: once("dots.gguf"), no_ranges: true, ..Manners::default() };
    let served = serve(gguf_files(), manners);
    let path = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap();
    assert!(std::fs::read(path).unwrap() == bytes);
}

#[test]
fn a_damaged_part_is_found_by_its_hash_and_fetched_anew() {
    let bytes = gguf_files()["dots.gguf"].clone();
    let etag = sha256(&bytes);
    let complete = [&[!bytes[0]], &bytes[1..]].concat();
    for (part, is_good) in [(&[0; 1000][..], false), (&complete, false), (&bytes[..1000], true)] {
        let cache = tempfile::tempdir().unwrap();
        let blobs = cache.path().join("models--o--n/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(format!("{etag}.part")), part).unwrap();
        let etags = BTreeMap::from([("dots.gguf".to_owned(), etag.clone())]);
        let served = serve(gguf_files(), Manners { etags, ..Manners::default() });
        let mut told = Told::default();
        let path = hub(&served, &cache).resolve("o/n", &mut told).unwrap();
        assert!(std::fs::read(path).unwrap() == bytes);
        assert_eq!(told.checked, [("dots.gguf".to_owned(), part.len() as u64)]);
        assert_eq!(told.files.len(), if is_good { 1 } else { 2 });
        let anew = format!("GET /o/n/resolve/{COMMIT}/dots.gguf bytes=0- ");
        assert_eq!(served.requests().contains(&anew), !is_good);
    }
}

#[test]
fn a_file_of_another_hash_is_not_kept() {
    let cache = tempfile::tempdir().unwrap();
    let found = sha256(&gguf_files()["dots.gguf"]);
    let etag = "f".repeat(64);
    let etags = BTreeMap::from([("dots.gguf".to_owned(), etag.clone())]);
    let manners = Manners { etags, breaks: once("dots.gguf"), ..Manners::default() };
    let served = serve(gguf_files(), manners);
    let message = hub(&served, &cache).resolve("o/n", &mut Told::default()).unwrap_err().to_string();
    let expected =
        format!("dots.gguf: SHA-256: expected {etag}, found {found}; nothing of it was kept: set HF_ENDPOINT");
    assert!(message.contains(&expected), "{message}");
    let lock = cache.path().join(format!("models--o--n/blobs/{etag}.lock"));
    assert_eq!(files_below(cache.path()), [lock.to_str().unwrap()]);
}

#[test]
fn a_name_that_claims_more_parts_than_there_are_files_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let served = |count: usize| {
        let names = (0..count).map(|model| (format!("m{model}-00001-of-99999.gguf"), Vec::new()));
        serve(names.collect(), Manners::default())
    };
    let message = hub(&served(1), &cache).resolve("o/n", &mut Told::default()).unwrap_err().to_string();
    let expected =
        "o/n: m0-00001-of-99999.gguf: number of parts: expected at most 1, as many files as there are, found 99999";
    assert!(message.starts_with(expected), "{message}");
    // Spelt out, these parts would be 400 million names.
    let message = hub(&served(4000), &cache).resolve("o/n", &mut Told::default()).unwrap_err().to_string();
    assert!(message.starts_with("o/n: it holds several models; give one of\n"), "{message}");
}
