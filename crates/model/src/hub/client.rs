//! Requests to a hub: who sees the token, where redirects may lead, and how long an answer may take.
//!
//! Redirects are followed here and not by the HTTP library: large files lie on other hosts, which must not see the token, and
//! the library tells hosts apart by name alone, not by scheme and port.

use std::time::Duration;

use ureq::{
    Agent, Body,
    http::{Method, Request, Response, StatusCode, Uri, header},
};

use super::{Hub, failure::Failure};

const MAX_REDIRECTS: u32 = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Characters of a header that a message shows.
const SHOWN_CHARS: usize = 100;
/// What is left to do where a hub's answers are wrong.
pub(super) const OTHER_HUB: &str = "set HF_ENDPOINT to another hub, or tell those who run this one";

/// Speaks with one hub about one repository.
pub(super) struct Client {
    agent: Agent,
    /// The hub's own, the only one that sees the token.
    origin: Origin,
    token: Option<String>,
    /// The repository's page, for messages.
    page: String,
}

/// What comes back; its body is read later, or never.
pub(super) type Answer = Response<Body>;

impl Client {
    /// Errors are reasons for the user.
    pub(super) fn new(hub: &Hub, page: String) -> Result<Self, String> {
        let origin = hub.endpoint.parse().ok().as_ref().and_then(Origin::of).ok_or_else(|| {
            format!("HF_ENDPOINT: expected https:// or http:// and a host, found {}", shown(&hub.endpoint))
        })?;
        // Proxies are those of the environment. Nothing limits the whole of an answer, which may be 40 GB; silence is
        // limited.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(hub.read_timeout))
            .timeout_per_write(Some(hub.read_timeout))
            .user_agent(concat!("dots/", env!("CARGO_PKG_VERSION")))
            // Lengths and ranges are those of the file only where nothing is compressed on the way.
            .accept_encoding("identity");
        Ok(Self { agent: config.build().into(), origin, token: hub.token.clone(), page })
    }

    pub(super) fn page(&self) -> &str {
        &self.page
    }

    /// Asks for `address`, from `range` on where one is given, and goes on to where redirects lead until `enough` says that
    /// one of them has told enough. The status is then that of a redirect, a success, or 416.
    pub(super) fn ask(
        &self,
        method: &Method,
        address: &str,
        range: Option<&str>,
        enough: impl Fn(&Answer) -> bool,
    ) -> Result<Answer, Failure> {
        let parsed = address.parse();
        let mut address: Uri = parsed.map_err(|_| self.wrong("address", "a valid one", &shown(address)))?;
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send(method, &address, range)?;
            if !is_redirect(answer.status()) || enough(&answer) {
                return Ok(answer);
            }
            address = self.target(&address, &answer)?;
        }
        Err(self.wrong("location", &format!("at most {MAX_REDIRECTS} redirects"), "more"))
    }

    /// One request, whose redirects are returned.
    fn send(&self, method: &Method, address: &Uri, range: Option<&str>) -> Result<Answer, Failure> {
        let own = Origin::of(address).as_ref() == Some(&self.origin);
        let mut request = Request::builder().method(method).uri(address);
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        if let (true, Some(token)) = (own, &self.token) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let host = address.authority().map_or("", |authority| authority.as_str());
        let request = request.body(()).map_err(|error| {
            Failure::Final(format!("{}: {error}; HF_TOKEN must be one line of visible characters", self.page))
        })?;
        let answer = self.agent.run(request).map_err(|error| self.unanswered(host, &error))?;
        let status = answer.status();
        match status.as_u16() {
            200..=299 | 416 => Ok(answer),
            _ if is_redirect(status) => Ok(answer),
            401 | 403 if own => Err(Failure::Final(format!(
                "{} is private or gated: accept its terms there, and set HF_TOKEN to a token that may read it",
                self.page
            ))),
            404 if own => Err(Failure::Final(format!(
                "{} has no such repository or revision, or shows it only to those who set HF_TOKEN",
                self.page
            ))),
            408 | 429 | 500..=599 => Err(Failure::Break(format!("{}: {host} answered {status}", self.page))),
            _ => Err(self.wrong(&format!("status from {host}"), "200 or 206", &status.to_string())),
        }
    }

    /// Where `answer`, a redirect from `address`, leads.
    fn target(&self, address: &Uri, answer: &Answer) -> Result<Uri, Failure> {
        let expected = "an http:// or https:// address, or a path on the same host";
        let location = text(answer, "location").ok_or_else(|| self.wrong("location", expected, "nothing"))?;
        let scheme = address.scheme_str().unwrap_or_default();
        let host = address.authority().map_or("", |authority| authority.as_str());
        let absolute = match location {
            _ if location.starts_with("//") => format!("{scheme}:{location}"),
            _ if location.starts_with('/') => format!("{scheme}://{host}{location}"),
            _ => location.to_owned(),
        };
        let target = absolute.parse().ok().filter(|target| Origin::of(target).is_some());
        target.ok_or_else(|| self.wrong("location", expected, &shown(location)))
    }

    /// The hub said something that cannot be used.
    pub(super) fn wrong(&self, field: &str, expected: &str, found: &str) -> Failure {
        Failure::Final(format!("{}: {field}: expected {expected}, found {found}; {OTHER_HUB}", self.page))
    }

    fn unanswered(&self, host: &str, error: &ureq::Error) -> Failure {
        use ureq::Error::{ConnectionFailed, HostNotFound, Io, Timeout};
        match error {
            Io(_) | Timeout(_) | HostNotFound | ConnectionFailed => {
                Failure::Break(format!("{}: {host}: {error}", self.page))
            }
            _ => Failure::Final(format!("{}: {host}: {error}; {OTHER_HUB}", self.page)),
        }
    }
}

/// What must be the same for a token to be sent.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// `None` for what is not HTTP or names no host.
    fn of(address: &Uri) -> Option<Self> {
        let scheme = address.scheme_str()?.to_ascii_lowercase();
        let usual_port = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let host = address.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        Some(Self { scheme, host, port: address.port_u16().unwrap_or(usual_port) })
    }
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// A header's value, where it is text.
pub(super) fn text<'a>(answer: &'a Answer, header: &str) -> Option<&'a str> {
    answer.headers().get(header)?.to_str().ok()
}

/// What a stranger wrote, fit for a message.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(SHOWN_CHARS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(address: &str) -> Option<Origin> {
        Origin::of(&address.parse().unwrap())
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://hub.example/a"), origin("HTTPS://HUB.example:443/b"));
        for other in [
            "http://hub.example/a",
            "https://hub.example:444/a",
            "https://cdn.hub.example/a",
            "https://hub.example@other.example/a",
        ] {
            assert_ne!(origin("https://hub.example/a"), origin(other), "{other}");
        }
        assert_eq!(origin("/a"), None);
        assert_eq!(origin("ftp://hub.example/a"), None);
    }
}
