//! By which names a server for this machine only is called. A foreign page can give its own host's name this machine's address,
//! and would then be let in as one of ours; it cannot take a name that no public DNS gives.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};

use crate::error::ApiError;

/// Ends of names that no public DNS gives: RFC 6761, and ICANN's reservation of `internal`, under which containers call the machine
/// that they run on.
const PRIVATE: [&str; 2] = [".localhost", ".internal"];

/// Names beside `localhost`, addresses, and what is private anyway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalNames(Vec<String>);

impl LocalNames {
    /// These, without ports; `*` is every one.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    fn has(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let is_named = || self.0.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(&name));
        is_address || name == "localhost" || PRIVATE.iter().any(|end| name.ends_with(end)) || is_named()
    }
}

/// Lets a request through that calls the server by one of its names.
pub async fn ask(State(names): State<Arc<LocalNames>>, request: Request, next: Next) -> Result<Response, ApiError> {
    check(request.headers(), &names)?;
    Ok(next.run(request).await)
}

/// A request that says no host is no browser's.
fn check(headers: &HeaderMap, names: &LocalNames) -> Result<(), ApiError> {
    for host in headers.get_all(header::HOST) {
        let host = String::from_utf8_lossy(host.as_bytes());
        if !names.has(&host) {
            return Err(ApiError::foreign_host(&host));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_server_for_this_machine_is_called_by_no_name_that_a_foreign_page_can_have() {
        let names = LocalNames::new(vec!["Dots.example".to_owned()]);
        for ours in [
            "localhost:8000",
            "localhost",
            "LOCALHOST:8000",
            "localhost.:8000",
            "127.0.0.1:8000",
            "127.0.0.1",
            "10.0.0.7:80",
            "[::1]:8000",
            "[::1]",
            "chat.localhost:8000",
            "host.docker.internal:8000",
            "dots.example",
            "dots.example:443",
        ] {
            assert!(names.has(ours), "{ours}");
        }
        for foreign in [
            "evil.example",
            "evil.example:8000",
            "",
            ":8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evillocalhost",
            "notinternal",
            "evil.dots.example",
            "[::1].evil.example",
            "*",
        ] {
            assert!(!names.has(foreign), "{foreign}");
        }
        assert!(LocalNames::new(vec!["*".to_owned()]).has("evil.example"));
    }

    #[test]
    fn every_host_that_is_said_counts_and_none_is_no_browsers() {
        let said = |hosts: &[&'static str]| {
            let hosts = hosts.iter().map(|host| (header::HOST, HeaderValue::from_static(host)));
            check(&hosts.collect(), &LocalNames::default())
        };
        assert!(said(&[]).is_ok() && said(&["localhost"]).is_ok());
        assert_eq!(said(&["localhost", "evil.example"]).unwrap_err().parts().0, 403);
    }
}
