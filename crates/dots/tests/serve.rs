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
        let mut command = dots();
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
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// Asks the server to end, as service managers do.
    fn terminate(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
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
}
