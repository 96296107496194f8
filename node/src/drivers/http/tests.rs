use std::time::Duration;

use super::fixture::{Names, Server, answer, path, test_roots};
use super::*;
use crate::agent::site::target;

const SOON: Duration = Duration::from_secs(10);

fn client(names: Arc<Names>, private: &[String]) -> Client {
    let allowed = private.iter().map(|entry| Allowed::parse(entry)).collect();
    Client::new(Dialer::new(Gate { allowed, own: Vec::new() }, names, test_roots()))
}

fn ask(url: &str) -> Ask {
    Ask {
        method: Method::GET,
        url: target(url).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        answer_bytes_max: 1000,
        deadline: Instant::now() + SOON,
    }
}

async fn hello() -> Server {
    Server::start("127.0.0.1:0", |request| answer("200 OK", "x-path: here\r\n", path(request))).await
}

#[tokio::test]
async fn a_host_is_asked_at_the_address_that_was_checked() {
    let server = hello().await;
    let names = Names::new(&[("api.test", &[&["127.0.0.1"]])]);
    let client = client(names.clone(), &[format!("127.0.0.1:{}", server.port)]);
    let url = format!("http://api.test:{}/a/b?c=d", server.port);
    let got = client.ask(ask(&url)).await.unwrap();
    assert_eq!((got.status, got.body.as_slice(), got.truncated), (200, b"/a/b?c=d".as_slice(), false));
    let seen = server.seen().remove(0);
    assert!(seen.contains(&format!("host: api.test:{}\r\n", server.port)), "{seen}");
    assert_eq!(*names.asked.lock().unwrap(), ["api.test"], "looked up once");
}

#[tokio::test]
async fn a_name_that_is_bound_anew_does_not_lead_to_a_private_address() {
    let server = hello().await;
    let other = Server::start(&format!("127.0.0.2:{}", server.port), |_| answer("200 OK", "", "inner")).await;
    let names = Names::new(&[("api.test", &[&["127.0.0.1"], &["127.0.0.2"]])]);
    let client = client(names.clone(), &[format!("127.0.0.1:{}", server.port)]);
    let url = format!("http://api.test:{}/", server.port);
    assert!(client.ask(ask(&url)).await.is_ok());
    let error = client.ask(ask(&url)).await.unwrap_err();
    assert!(matches!(error, AskError::Dial(DialError::InClear)), "{error}");
    let secure = client.ask(ask(&url.replace("http:", "https:"))).await.unwrap_err();
    assert!(matches!(secure, AskError::Dial(DialError::Private)), "{secure}");
    assert!(other.seen().is_empty(), "the private host was reached");
    assert_eq!(names.asked.lock().unwrap().len(), 3, "one look-up a request");
}

#[tokio::test]
async fn of_several_addresses_only_those_that_pass_are_tried() {
    let server = hello().await;
    let other = Server::start(&format!("127.0.0.2:{}", server.port), |_| answer("200 OK", "", "inner")).await;
    let names = Names::new(&[("api.test", &[&["127.0.0.2", "::1", "127.0.0.1"]])]);
    let client = client(names, &[format!("127.0.0.1:{}", server.port)]);
    let got = client.ask(ask(&format!("http://api.test:{}/x", server.port))).await.unwrap();
    assert_eq!(got.body, b"/x");
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_private_address_is_refused_in_whatever_form() {
    let server = hello().await;
    let client =
        client(Names::new(&[("home.test", &[&["127.0.0.1"]]), ("v6.test", &[&["::ffff:127.0.0.1"]])]), &[]);
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "0.0.0.0",
        "[::]",
        "169.254.169.254",
        "[fd00::1]",
        "[64:ff9b::7f00:1]",
        "home.test",
        "v6.test",
    ] {
        let secure = client.ask(ask(&format!("https://{host}:{}/", server.port))).await.unwrap_err();
        assert!(matches!(secure, AskError::Dial(DialError::Private)), "{host}: {secure}");
        let clear = client.ask(ask(&format!("http://{host}:{}/", server.port))).await.unwrap_err();
        assert!(matches!(clear, AskError::Dial(DialError::InClear)), "{host}: {clear}");
        assert!(!secure.is_sent() && !clear.is_sent());
    }
    // Nothing public is asked without TLS either, and nothing goes out for it.
    let public = client.ask(ask("http://1.1.1.1/")).await.unwrap_err();
    assert!(matches!(public, AskError::Dial(DialError::InClear)), "{public}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn tls_is_for_the_host_that_was_asked_for() {
    let server = Server::start_tls(|_| answer("200 OK", "", "over tls")).await;
    let names = Names::new(&[("tls.test", &[&["127.0.0.1"]]), ("other.test", &[&["127.0.0.1"]])]);
    let private = [format!("127.0.0.1:{}", server.port)];
    let mine = client(names.clone(), &private);
    let url = |host: &str| ask(&format!("https://{host}:{}/", server.port));
    assert_eq!(mine.ask(url("tls.test")).await.unwrap().body, b"over tls");
    for host in ["other.test", "127.0.0.1"] {
        let error = mine.ask(url(host)).await.unwrap_err();
        assert!(matches!(error, AskError::Dial(DialError::Handshake(_))), "{host}: {error}");
    }
    let allowed = private.iter().map(|entry| Allowed::parse(entry)).collect();
    let browser = Client::new(Dialer::new(Gate { allowed, own: Vec::new() }, names, tls::config()));
    let error = browser.ask(url("tls.test")).await.unwrap_err();
    assert!(
        matches!(error, AskError::Dial(DialError::Handshake(_))),
        "an unknown root was believed: {error}"
    );
}

#[tokio::test]
async fn what_is_too_much_is_cut() {
    let server = Server::start("127.0.0.1:0", |request| match path(request) {
        "/body" => answer("200 OK", "", vec![b'x'; 5000]),
        "/exact" => answer("200 OK", "", vec![b'x'; 1000]),
        "/many" => answer("200 OK", &"x: y\r\n".repeat(HEADERS_MAX + 10), ""),
        _ => answer("200 OK", &format!("x: {}\r\n", "y".repeat(2 * HEAD_BYTES_MAX)), ""),
    })
    .await;
    let client = client(Names::new(&[]), &["127.0.0.1".to_owned()]);
    let url = |path: &str| ask(&format!("http://127.0.0.1:{}{path}", server.port));
    let got = client.ask(url("/body")).await.unwrap();
    assert_eq!((got.body.len(), got.truncated), (1000, true));
    let got = client.ask(url("/exact")).await.unwrap();
    assert_eq!((got.body.len(), got.truncated), (1000, false));
    for path in ["/many", "/head"] {
        let error = client.ask(url(path)).await.unwrap_err();
        assert!(matches!(error, AskError::Broken { sent: true, .. }), "{path}: {error}");
    }
}

#[tokio::test]
async fn an_error_says_whether_the_request_may_have_been_seen() {
    let server = Server::start("127.0.0.1:0", |request| match path(request) {
        "/slow" => None,
        _ => Some(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()),
    })
    .await;
    let names = Names::new(&[("none.test", &[&[]])]);
    let client = client(names, &["127.0.0.1".to_owned()]);
    let url = |path: &str| ask(&format!("http://127.0.0.1:{}{path}", server.port));
    let brief = Instant::now() + Duration::from_millis(200);
    let slow = client.ask(Ask { deadline: brief, ..url("/slow") }).await.unwrap_err();
    assert!(matches!(slow, AskError::TimedOut { sent: true }), "{slow}");
    let half = client.ask(url("/half")).await.unwrap_err();
    assert!(matches!(half, AskError::Broken { sent: true, .. }), "{half}");
    for (url, what) in [("https://none.test/", "no address"), ("https://unknown.test/", "resolved")] {
        let error = client.ask(ask(url)).await.unwrap_err();
        assert!(error.to_string().contains(what) && !error.is_sent(), "{url}: {error}");
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = client.ask(ask(&format!("http://127.0.0.1:{closed}/"))).await.unwrap_err();
    assert!(matches!(error, AskError::Dial(DialError::Connect(_))) && !error.is_sent(), "{error}");
}

#[tokio::test]
async fn only_so_many_are_asked_at_once() {
    let server = Server::start("127.0.0.1:0", |_| None).await;
    let client = Arc::new(client(Names::new(&[]), &["127.0.0.1".to_owned()]));
    let url = format!("http://127.0.0.1:{}/", server.port);
    let held: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (client, ask) = (client.clone(), ask(&url));
            AbortOnDropHandle::new(tokio::spawn(async move { client.ask(ask).await.map(drop) }))
        })
        .collect();
    let start = Instant::now();
    while server.seen().len() < AT_ONCE && start.elapsed() < SOON {
        tokio::task::yield_now().await;
    }
    let brief = Instant::now() + Duration::from_millis(100);
    let error = client.ask(Ask { deadline: brief, ..ask(&url) }).await.unwrap_err();
    assert!(matches!(error, AskError::Busy) && !error.is_sent(), "{error}");
    drop(held);
}
