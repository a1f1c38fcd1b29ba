//! Which build this is, which runs note since two builds may round differently; and the model that it brings.

#[path = "build/inside.rs"]
mod inside;

use std::{path::Path, process::Command};

fn main() {
    inside::take_in();
    println!("cargo:rerun-if-changed=..");
    println!("cargo:rerun-if-changed=../../Cargo.lock");
    // A commit changes what the same sources are called.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
    // Sources that no repository knows are a release's, which its version names.
    if let Some(build) = git(&["describe", "--always", "--dirty", "--abbrev=12"]) {
        println!("cargo:rustc-env=DOTS_BUILD={build}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
