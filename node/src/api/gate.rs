//! Who may call: the bearer token, and what keeps web pages out.
//!
//! A browser lets any page send requests to 127.0.0.1. Two checks keep such requests out: the `Origin` of a request
//! must be on this machine, and a server bound to loopback answers only to loopback's own names, so that a foreign
//! name that was made to point here (DNS rebinding) leads nowhere.

use super::{ApiConfig, ApiError, error::Failure};
use aitbc_protocol::Digest;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
};
use subtle::ConstantTimeEq;

/// Longest token in bytes.
const MAX_TOKEN: u64 = 4096;

/// What a request must show.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// Digest of the token, if one is wanted: digests have one length, so comparing them tells nothing about it.
    token: Option<Digest>,
    /// Whether the server listens on loopback, and so has only loopback's names.
    loopback: bool,
}

impl Gate {
    /// The gate for a server: refuses to go beyond loopback without a token.
    pub(super) fn new(config: &ApiConfig) -> Result<Self, ApiError> {
        let loopback = config.listen.ip().to_canonical().is_loopback();
        let token = config.token_file.as_deref().map(read_token).transpose()?;
        if token.is_none() && !loopback {
            return Err(ApiError::NoToken(config.listen));
        }
        Ok(Self { token, loopback })
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Failure> {
        if self.loopback {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            let named = host.is_some_and(|host| is_loopback(host))
                && uri.authority().is_none_or(|authority| is_loopback(authority.as_str()));
            if !named {
                return Err(Failure::forbidden(
                    "this API is bound to loopback and answers to localhost, 127.0.0.1 and [::1] only: \
                     the Host header names something else",
                ));
            }
        }
        if headers.get_all(header::ORIGIN).iter().any(|origin| !origin.to_str().is_ok_and(is_local_origin)) {
            return Err(Failure::forbidden("web pages of other sites may not call this API (Origin header)"));
        }
        // Whether the process lives is no secret, and health checks hold no tokens.
        if uri.path() == "/healthz" {
            return Ok(());
        }
        match &self.token {
            Some(token) if !bearer(headers).is_some_and(|given| bool::from(token.0.ct_eq(&given.0))) => {
                Err(Failure::unauthorized())
            }
            _ => Ok(()),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<Digest> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| Digest::of(token.trim_ascii()))
}

/// True for `localhost` and loopback addresses, with or without a port.
fn is_loopback(authority: &str) -> bool {
    authority.parse::<Authority>().is_ok_and(|authority| {
        let host = authority.host();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        !authority.as_str().contains('@')
            && (host.eq_ignore_ascii_case("localhost")
                || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
    })
}

/// True for origins such as `http://localhost:3000`; false for `null`, which any sandboxed page sends.
fn is_local_origin(origin: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, authority)| is_loopback(authority))
}

fn read_token(path: &Path) -> Result<Digest, ApiError> {
    let fail = |reason: String| ApiError::Token { path: PathBuf::from(path), reason };
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(|error| fail(error.to_string()))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(fail(format!("others can read it (mode {mode:o}): run chmod 600 {}", path.display())));
        }
    }
    let mut text = Vec::new();
    file.take(MAX_TOKEN + 1).read_to_end(&mut text).map_err(|error| fail(error.to_string()))?;
    let token = text.trim_ascii();
    if token.is_empty() {
        return Err(fail("it is empty: write a long random token into it".to_owned()));
    }
    if text.len() as u64 > MAX_TOKEN {
        return Err(fail(format!("it is over {MAX_TOKEN} bytes: it should hold one token and nothing else")));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(fail("a token is one word of printable ASCII: nothing else fits an HTTP header".to_owned()));
    }
    Ok(Digest::of(token))
}

/// Lets through what passes the gate.
pub(super) async fn guard(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderValue, StatusCode};
    use std::{io::Write, net::SocketAddr};

    fn status(gate: &Gate, uri: &str, headers: &[(header::HeaderName, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        match gate.check(&uri.parse().unwrap(), &map) {
            Ok(()) => StatusCode::OK.as_u16(),
            Err(failure) => failure.into_response().status().as_u16(),
        }
    }

    #[test]
    fn on_loopback_only_its_own_names_and_origins_pass() {
        let gate = Gate { token: None, loopback: true };
        let host = |name: &str| status(&gate, "/v1/models", &[(header::HOST, name)]);
        for name in ["127.0.0.1:11435", "localhost", "LOCALHOST:80", "[::1]:11435", "127.0.0.2"] {
            assert_eq!(host(name), 200, "{name}");
        }
        for name in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:11435", "localhost@evil.example", ""] {
            assert_eq!(host(name), 403, "{name}");
        }
        assert_eq!(status(&gate, "/v1/models", &[]), 403, "no Host at all");
        assert_eq!(status(&gate, "http://evil.example/v1/models", &[(header::HOST, "localhost")]), 403);

        let origin =
            |origin: &str| status(&gate, "/v1/models", &[(header::HOST, "localhost"), (header::ORIGIN, origin)]);
        assert_eq!(origin("http://localhost:3000"), 200);
        assert_eq!(origin("http://[::1]:3000"), 200);
        for name in ["https://evil.example", "null", "http://localhost.evil.example", "file://"] {
            assert_eq!(origin(name), 403, "{name}");
        }
    }

    #[test]
    fn a_token_is_wanted_everywhere_but_for_health() {
        let gate = Gate { token: Some(Digest::of(b"secret")), loopback: false };
        let with = |value: &str| status(&gate, "/metrics", &[(header::AUTHORIZATION, value)]);
        assert_eq!(with("Bearer secret"), 200);
        assert_eq!(with("bearer secret"), 200, "schemes have no case (RFC 9110, 11.1)");
        for value in ["Bearer secre", "Bearer secrets", "Bearer ", "Bearer", "Basic secret", "secret"] {
            assert_eq!(with(value), 401, "{value}");
        }
        assert_eq!(status(&gate, "/v1/models", &[]), 401);
        assert_eq!(status(&gate, "/healthz", &[]), 200);
    }

    #[test]
    fn token_files_are_read_only_if_nobody_else_can() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let config = |path: &Path| ApiConfig {
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            token_file: Some(path.to_owned()),
        };
        let refused = |path: &Path| Gate::new(&config(path)).unwrap_err().to_string();
        assert!(refused(file.path()).contains("is empty"));
        file.write_all(b"two words\n").unwrap();
        assert!(refused(file.path()).contains("one word"));
        file.as_file().set_len(0).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file.write_all(b"secret\n").unwrap();
        assert_eq!(Gate::new(&config(file.path())).unwrap().token, Some(Digest::of(b"secret")));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
            assert!(refused(file.path()).contains("chmod 600"));
        }
        assert!(refused(Path::new("/nowhere/token")).starts_with("api.token_file /nowhere/token"));
    }

    #[test]
    fn without_a_token_the_server_stays_on_loopback() {
        let gate = |listen: &str| Gate::new(&ApiConfig { listen: listen.parse().unwrap(), token_file: None });
        assert!(gate("127.0.0.1:0").is_ok());
        assert!(gate("[::1]:0").is_ok());
        for listen in ["0.0.0.0:0", "[::]:0", "192.168.1.2:0"] {
            assert!(matches!(gate(listen), Err(ApiError::NoToken(_))), "{listen}");
        }
    }
}
