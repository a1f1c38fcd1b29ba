//! `dots serve` as a process: its flags, its words, its end.

#![cfg(unix)]

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use support::{Ran, dots, fixture};

/// A server that is stopped when the test ends, however it ends.
struct Server {
    child: Child,
    address: String,
    words: String,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        Self::start_with(dots(), flags)
    }

    fn start_with(mut command: Command, flags: &[&str]) -> Self {
        command.arg("serve").args(flags).args(["--port", "0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut words = String::new();
        let address = loop {
            let mut line = String::new();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the server ended: {words}");
            words += &line;
            if let Some((_, address)) = line.trim().split_once(" on http://") {
                break address.to_owned();
            }
        };
        Self { child, address, words, stderr }
    }

    fn get(&self, path: &str) -> String {
        self.get_with(path, "")
    }

    /// `headers` end in line breaks.
    fn get_with(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", self.address).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// `headers` end in line breaks.
    fn post_with(&self, path: &str, headers: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{headers}\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Reads what the server says until a line has `words` in it.
    fn read_until(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.stderr.read_line(&mut line).unwrap(), 0, "the server ended before it said {words}");
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Asks the server to end, as service managers do.
    fn terminate(mut self) -> (Option<i32>, String) {
        self.signal("-TERM");
        let mut words = std::mem::take(&mut self.words);
        self.stderr.read_to_string(&mut words).unwrap();
        (self.child.wait().unwrap().code(), words)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_serves_under_the_flags_that_other_servers_have_and_ends_when_asked() {
    let model = fixture("hf");
    let flags = ["--model-path", model.to_str().unwrap(), "-tp", "8", "--trust-remote-code"];
    let names = ["--served-model-name", "tiny", "dots", "--context-length", "128"];
    let server = Server::start(&[&flags[..], &names[..]].concat());
    assert!(server.words.contains("--tensor-parallel-size 8"), "{}", server.words);
    assert!(server.words.contains("no code that comes with a model is ever run"), "{}", server.words);
    assert!(server.words.contains("memory for a context of 128 tokens"), "{}", server.words);
    assert!(server.get("/health").starts_with("HTTP/1.1 200"));
    let models = server.get("/v1/models");
    assert!(models.contains("\"tiny\""), "{models}");
    let (code, words) = server.terminate();
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("curl http://"), "{words}");
}

#[test]
fn a_port_that_is_taken_is_named_before_anything_is_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = dots();
    command.arg("serve").arg(fixture("hf")).args(["--port", &port]);
    Ran::of(command).failed_saying(&[&port, "in use"]);
}

#[test]
fn two_models_are_a_wrong_call() {
    let mut command = dots();
    command.args(["serve", "one", "--model", "two"]);
    assert_eq!(Ran::of(command).code, Some(2));
    let mut command = dots();
    command.env("DOTS_MODEL", "two").args(["serve", "one", "--print-config"]);
    Ran::of(command).succeeded();
}

#[test]
fn keys_are_read_again_on_a_hangup_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "# ours\nfirst-key\n").unwrap();
    let mut command = dots();
    command.env("DOTS_API_KEY", "variable-key");
    let model = fixture("hf");
    let flags = [model.to_str().unwrap(), "--api-key-file", keys.to_str().unwrap(), "--context", "64"];
    let mut server = Server::start_with(command, &flags);
    let with_key = |server: &Server, key: &str| {
        server.get_with("/v1/models", &format!("Authorization: Bearer {key}\r\n"))[9..12].to_owned()
    };
    for (key, status) in [("first-key", "200"), ("variable-key", "200"), ("second-key", "401"), ("# ours", "401")] {
        assert_eq!(with_key(&server, key), status, "{key}");
    }
    std::fs::write(&keys, "second-key\n").unwrap();
    server.signal("-HUP");
    server.read_until("Read 1 keys.");
    assert_eq!((with_key(&server, "first-key"), with_key(&server, "second-key")), ("401".into(), "200".into()));
    std::fs::write(&keys, "\n").unwrap();
    server.signal("-HUP");
    server.read_until("the keys stay as they were");
    assert_eq!(with_key(&server, "second-key"), "200");
    let (code, words) = server.terminate();
    assert_eq!(code, Some(0), "{words}");
    assert!(!words.contains("-key\""), "{words}");
    for key in ["first-key", "second-key", "variable-key"] {
        assert!(!words.contains(key), "{words}");
    }
}

#[test]
fn a_key_finds_in_the_cache_what_it_sent_itself_and_not_what_another_did() {
    let model = fixture("hf");
    let flags = [model.to_str().unwrap(), "--context", "128", "--api-key", "one", "--api-key", "two"];
    let ids: Vec<u32> = (1..100).collect();
    let body = format!(r#"{{"prompt": {ids:?}, "max_tokens": 1}}"#);
    let cached = |server: &Server, key: &str| -> usize {
        let answer = server.post_with("/v1/completions", &format!("Authorization: Bearer {key}\r\n"), &body);
        let (_, rest) = answer.split_once("\"cached_tokens\":").unwrap_or_else(|| panic!("{answer}"));
        rest.split_once('}').unwrap().0.parse().unwrap()
    };
    let server = Server::start(&flags);
    let found = ["one", "one", "two", "two"].map(|key| cached(&server, key));
    assert_eq!(found, [0, 96, 0, 96]);
    let server = Server::start(&[&flags[..], &["--share-cache-across-keys"]].concat());
    assert_eq!(["one", "two"].map(|key| cached(&server, key)), [0, 96]);
}

#[test]
fn a_request_leaves_one_line_that_names_it() {
    let model = fixture("hf");
    let mut server = Server::start(&[model.to_str().unwrap(), "--log-format", "json", "--context", "64"]);
    server.get_with("/v1/models?secret=1", "x-request-id: mine-1\r\n");
    let line: serde_json::Value = serde_json::from_str(&server.read_until("mine-1")).unwrap();
    assert_eq!(line["span"]["id"], "mine-1", "{line}");
    assert_eq!(line["span"]["trace_id"].as_str().map(str::len), Some(32), "{line}");
    assert_eq!(
        (&line["method"], &line["path"], &line["status"], &line["reason"], &line["target"]),
        (&"GET".into(), &"/v1/models".into(), &200.into(), &"done".into(), &"dots_server::access".into()),
        "{line}"
    );
    assert!(line["ms"].is_u64() && line["peer"].is_string(), "{line}");
}

/// What `dots serve --print-config` says with these variables and flags.
fn settings(variables: &[(&str, &str)], flags: &[&str]) -> String {
    let mut command = dots();
    command.envs(variables.iter().copied()).arg("serve").args(flags).arg("--print-config");
    Ran::of(command).succeeded().stdout
}

#[test]
fn a_flag_goes_over_a_variable_a_variable_over_the_file_and_the_file_over_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dots.toml");
    std::fs::write(&file, "model = 'of-file'\nport = 1\nhost = 'file'\ndrain-seconds = 1\nno-mmap = true\n").unwrap();
    let file = file.to_str().unwrap();
    let variables = [("DOTS_PORT", "2"), ("DOTS_HOST", "variable"), ("DOTS_CONFIG", file), ("DOTS_API_KEY", "secret")];
    let text = settings(&variables, &["of-flag", "--port", "3", "--served-model-name", "a", "b"]);
    for line in [
        "model = \"of-flag\"  # flag",
        "port = 3  # flag",
        "host = \"variable\"  # DOTS_HOST",
        "drain-seconds = 1  # file",
        "no-mmap = true  # file",
        "# max-connections = 4096  # default",
        "served-model-name = [\"a\", \"b\"]  # flag",
        "# api-key = 1 not shown  # DOTS_API_KEY",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("secret"), "{text}");
    let text = settings(&[("DOTS_MODEL", "of-variable"), ("DOTS_PORT", ""), ("DOTS_MLOCK", "1")], &[]);
    for line in ["model = \"of-variable\"  # DOTS_MODEL", "# port = 8000  # default", "mlock = true  # DOTS_MLOCK"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_file_that_is_wrong_is_told_by_name_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dots.toml");
    let failing = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = dots();
        command.args(["serve", "m", "--config"]).arg(&file);
        Ran::of(command)
    };
    failing("\nprot = 1").failed_saying(&["dots.toml:2: unknown key 'prot'; the nearest known one is 'port'"]);
    failing("port = 'x'").failed_saying(&["dots.toml:1: invalid value 'x' for '--port <PORT>'"]);
    failing("port = ").failed_saying(&["dots.toml:1: "]);
    std::fs::remove_file(&file).unwrap();
    let mut command = dots();
    command.args(["serve", "m", "--config"]).arg(&file);
    Ran::of(command).failed_saying(&["dots.toml: "]);
}

#[test]
fn half_a_certificate_and_a_missing_key_file_are_told_before_anything_is_loaded() {
    for (flags, words) in [
        (&["--tls-cert", "x.pem"][..], "--tls-cert and --tls-key"),
        (&["--tls-cert", "no.pem", "--tls-key", "no.key"], "no.pem"),
        (&["--api-key-file", "no.keys"], "no.keys"),
        (&["--cors-origin", "app.example"], "--cors-origin"),
        (&["--otlp-endpoint", "collector:4318"], "--otlp-endpoint"),
    ] {
        let mut command = dots();
        command.args(["serve", "m"]).args(flags);
        Ran::of(command).failed_saying(&[words]);
    }
}
