//! `GET /` and `GET /page/{file}`: a chat in the browser.
//!
//! The files beside this one are the page as it is, with no build step. They are open to whoever reaches the server; the
//! API that they call asks for the key. What the page may do is told to the browser with every file: run the scripts that
//! lie here, talk to this server, and nothing else, so that no answer of a model becomes a program or reaches elsewhere.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Path, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{App, error::ApiError};

/// What a browser lets the page do. `trusted-types 'none'` closes the ways by which text could become markup or script.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// Name and bytes of each file.
macro_rules! files {
    ($($name:literal),* $(,)?) => { &[$(($name, include_bytes!($name))),*] };
}

const INDEX: &str = "index.html";

/// Every file of the page.
const FILES: &[(&str, &[u8])] = files![
    "answer.css",
    "api.js",
    "app.js",
    "chats.js",
    "composer.js",
    "conversation.js",
    "dialogs.css",
    "dialogs.js",
    "dom.js",
    "experts.js",
    "files.js",
    "first.js",
    "frame.css",
    "highlight.js",
    "icon.svg",
    "index.html",
    "inline.js",
    "keys.js",
    "markdown.js",
    "message.js",
    "render.js",
    "run.js",
    "settings.js",
    "sidebar.js",
    "speech.js",
    "sse.js",
    "store.js",
    "style.css",
    "thread.css",
    "thread.js",
    "transfer.js",
    "words-en.js",
    "words-ko.js",
    "words-zh.js",
    "words.js",
];

/// The page's routes.
pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/", get(index)).route("/page/{file}", get(file))
}

async fn index(headers: HeaderMap) -> Response {
    let (name, bytes) = find(INDEX).expect("the list of files has the index");
    answer(name, bytes, &headers)
}

async fn file(
    name: Result<Path<String>, PathRejection>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // An address whose escapes are no UTF-8 names no file.
    match name.ok().and_then(|Path(name)| find(&name)) {
        // It has one address, which its relative links are made for.
        Some((INDEX, _)) | None => Err(ApiError::unknown_url(&method, &uri)),
        Some((name, bytes)) => Ok(answer(name, bytes, &headers)),
    }
}

/// A file of the page by its name.
pub fn find(name: &str) -> Option<(&'static str, &'static [u8])> {
    FILES.iter().find(|(known, _)| *known == name).copied()
}

/// The file, or 304 where the browser has it already.
pub fn answer(name: &str, bytes: &'static [u8], request: &HeaderMap) -> Response {
    let etag = etag(bytes);
    let mut response = match is_known(request, &etag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => bytes.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type(name)),
        // Another build may be behind the same address: the browser asks, and mostly gets a 304.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::ETAG, HeaderValue::from_str(&etag).expect("hexadecimal digits in quotes"));
    response
}

pub fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// A hash of the file: it changes with it.
fn etag(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// Whether `If-None-Match` names this version (RFC 9110, 13.1.2: compared weakly).
fn is_known(request: &HeaderMap, etag: &str) -> bool {
    let versions = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    versions
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|version| version == "*" || version.strip_prefix("W/").unwrap_or(version) == etag)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text(name: &str) -> &'static str {
        std::str::from_utf8(find(name).unwrap().1).unwrap()
    }

    #[test]
    fn every_file_beside_this_one_is_served() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/page");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let beside: BTreeSet<_> = names.filter(|name| !name.ends_with(".rs")).collect();
        let served: BTreeSet<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(served, beside);
        assert!(served.iter().all(|name| content_type(name) != "application/octet-stream"));
    }

    #[test]
    fn the_page_names_no_other_host_and_no_file_that_is_not_there() {
        for (name, _) in FILES {
            let text = text(name).replace("http://www.w3.org/2000/svg", "");
            for address in ["http://", "https://", "//cdn", "@import"] {
                // The Markdown reader knows addresses when it sees them.
                assert!(*name == "inline.js" || !text.contains(address), "{name}: {address}");
            }
            let imports = text.lines().filter(|line| line.starts_with("import ") || line.starts_with("} from "));
            for import in imports.filter_map(|line| line.split('"').nth(1)) {
                assert!(find(import.trim_start_matches("./")).is_some(), "{name}: {import}");
            }
        }
        let links = text(INDEX).split('"').filter_map(|part| part.strip_prefix("page/"));
        assert!(links.clone().count() >= 4);
        links.for_each(|link| assert!(find(link).is_some(), "{link}"));
    }

    #[test]
    fn nothing_in_the_page_needs_what_its_policy_forbids() {
        for (name, _) in FILES.iter().filter(|(name, _)| name.ends_with(".js")) {
            for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!text(name).contains(way), "{name}: {way}");
            }
        }
        for way in [" style=", " onclick=", "<style", "javascript:"] {
            assert!(!text(INDEX).contains(way), "{way}");
        }
    }

    #[test]
    fn a_version_is_known_by_its_hash() {
        let etag = etag(b"one");
        assert_ne!(etag, super::etag(b"two"));
        let known = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            is_known(&headers, &etag)
        };
        assert!(known(&etag) && known("*") && known(&format!("\"x\", W/{etag}")));
        assert!(!known("\"x\"") && !known("") && !is_known(&HeaderMap::new(), &etag));
    }
}
