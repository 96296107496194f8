use std::fmt;
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::span;

use super::*;
use crate::agent::manifest::{Http as Rules, Method};
use crate::agent::site::Site;
use crate::drivers::address::{Allowed, Gate};
use crate::drivers::http::Dialer;
use crate::drivers::http::fixture::{Names, Server, answer, path, test_roots};
use crate::namespace::Namespace;
use crate::namespace::mount::Access;
use crate::serve::fixture::{Fixture, NOW_MS};
use crate::store::backend::Table;

const SECRET: &str = "sk-live-4242/4242+4242=";
/// One that can be part of a host's name.
const NAMELY: &str = "sk-live-4242-namely";

/// An agent, a server under several names, and one that only its owner would let it reach.
struct World {
    fixture: Fixture,
    server: Server,
    private: Server,
}

fn respond(request: &str) -> Option<Vec<u8>> {
    let (path, query) = path(request).split_once('?').unwrap_or((path(request), ""));
    let to = |status: &str| answer(status, &format!("location: {query}\r\n"), "moved");
    match path {
        "/echo" => {
            answer("200 OK", &format!("x-echo: {}\r\n", request.lines().last().unwrap_or("")), request)
        }
        "/302" => to("302 Found"),
        "/303" => to("303 See Other"),
        "/307" => to("307 Temporary Redirect"),
        "/loop" => answer("302 Found", "location: /loop\r\n", ""),
        "/leak" => {
            answer("302 Found", &format!("location: http://other.test:{}/{SECRET}\r\n", port(request)), "")
        }
        "/host" => answer("302 Found", "location: https://SK-live-4242-Namely.evil.test/\r\n", ""),
        "/stored" => answer("200 OK", "", format!("it was {SECRET}")),
        "/packed" => answer("200 OK", "content-encoding: gzip\r\n", b"\x1f\x8b"),
        "/big" => answer("200 OK", "", vec![b'x'; send::ANSWER_BYTES_MAX + 1]),
        "/cut" => {
            let before = vec![b'x'; send::ANSWER_BYTES_MAX - 10];
            answer("200 OK", "", [before.as_slice(), SECRET.as_bytes()].concat())
        }
        "/binary" => answer("200 OK", "", [0, 159, 146, 150]),
        "/twice" => answer("200 OK", "set-cookie: a=1\r\nset-cookie: b=2\r\nvary: x\r\nvary: y\r\n", ""),
        "/slow" => None,
        _ => answer("200 OK", "content-type: text/plain\r\n", "hello"),
    }
}

fn port(request: &str) -> &str {
    let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    host.rsplit_once(':').map_or("", |(_, port)| port)
}

impl World {
    async fn new() -> Self {
        let server = Server::start("127.0.0.1:0", respond).await;
        let private = Server::start(&format!("127.0.0.3:{}", server.port), respond).await;
        let local: &[&[&str]] = &[&["127.0.0.1"]];
        let names = Names::new(&[
            ("api.test", local),
            ("other.test", local),
            ("evil.test", local),
            ("private.test", &[&["127.0.0.3"]]),
        ]);
        let allowed = ["api.test", "other.test", "evil.test"].map(Allowed::parse).to_vec();
        let dialer = Dialer::new(Gate { allowed, own: Vec::new() }, names, test_roots());
        let mut fixture = Fixture::with_http(Client::new(dialer));
        let sites = ["api.test", "other.test", "private.test"];
        let allow = sites.map(|host| Site::parse(&format!("{host}:{}", server.port)).unwrap()).to_vec();
        fixture.manifest.http = Rules { allow, ..Rules::default() };
        Self { fixture, server, private }
    }

    fn vault(&self) -> Vault {
        Vault::new(self.fixture.store.clone(), self.fixture.keyring.clone())
    }

    /// Keeps the secret under a name, for these hosts.
    async fn secret(&self, name: &str, hosts: &[&str], agents: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|host| format!("{host}:{}", self.server.port)).collect();
        let value = if name == "namely" { NAMELY } else { SECRET };
        let json = json!({ "value": value, "hosts": hosts, "agents": agents }).to_string();
        let write = self.vault().set(name, json.as_bytes(), NOW_MS).await.unwrap();
        self.fixture.store.write(write).await.unwrap();
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.server.port)
    }

    async fn ask(&self, request: Value) -> Result<Value, Error> {
        let reply = self.fixture.tick().call("/http/request", request.to_string().as_bytes()).await?;
        assert!(!holds_secret(&reply), "{}", String::from_utf8_lossy(&reply));
        Ok(serde_json::from_slice(&reply).unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(json!({ "url": self.url("api.test", path) })).await.unwrap()
    }

    async fn used(&self) -> u64 {
        let policy = self.fixture.tick().read("/http/policy").await.unwrap();
        serde_json::from_slice::<Value>(&policy).unwrap()["used_today"].as_u64().unwrap()
    }
}

fn holds_secret(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    text.contains("4242") || text.contains("sk-live")
}

#[tokio::test]
async fn a_request_is_answered_kept_and_counted() {
    let world = World::new().await;
    let reply = world.get("/hello").await;
    assert_eq!(
        (&reply["status"], &reply["body"], &reply["truncated"]),
        (&json!(200), &json!("hello"), &json!(false))
    );
    assert_eq!(reply["headers"]["content-type"], "text/plain");
    let seen = world.server.seen().remove(0);
    for line in ["GET /hello HTTP/1.1", "accept: */*", "accept-encoding: identity", "user-agent: oa/"] {
        assert!(seen.contains(line), "{seen}");
    }
    let mut tick: Namespace = world.fixture.tick();
    let kept = tick.read(&format!("/http/responses/{}.json", reply["id"].as_str().unwrap())).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap(), reply);
    let names: Vec<String> = tick.list("/http").await.unwrap().into_iter().map(|stat| stat.name).collect();
    assert_eq!(names, ["policy", "request", "responses"]);
    assert_eq!(tick.list("/http/responses").await.unwrap().len(), 1);
    assert_eq!(world.used().await, 1);
}

#[tokio::test]
async fn a_mount_that_is_taken_away_takes_requests_with_it() {
    let mut world = World::new().await;
    for (access, code) in [(Access::ReadOnly, Code::PermissionDenied), (Access::Disabled, Code::NotFound)] {
        let mut mounts = (*world.fixture.mounts).clone();
        mounts.restrict(&at("/http"), access).unwrap();
        world.fixture.mounts = Arc::new(mounts);
        let error = world.ask(json!({ "url": world.url("api.test", "/hello") })).await.unwrap_err();
        assert_eq!(error.code, code, "{access}");
    }
    assert!(world.server.seen().is_empty());
}

#[tokio::test]
async fn bodies_of_any_kind_come_and_go() {
    let world = World::new().await;
    let url = world.url("api.test", "/echo");
    let reply = world
        .ask(json!({ "method": "PUT", "url": url, "body_base64": "w7w=", "headers": { "x-mine": "1" } }))
        .await
        .unwrap();
    let echoed = reply["body"].as_str().unwrap();
    assert!(
        echoed.starts_with("PUT /echo") && echoed.ends_with("\r\n\r\nü") && echoed.contains("x-mine: 1"),
        "{echoed}"
    );
    let url = world.url("api.test", "/hello");
    let reply = world
        .ask(json!({ "method": "POST", "url": url, "body": "x", "idempotency_key": "k 1" }))
        .await
        .unwrap();
    assert_eq!(reply["status"], 200);
    assert!(world.server.seen()[1].contains("idempotency-key: k 1\r\n"));
    assert_eq!(world.get("/binary").await["body_base64"], "AJ+Slg==");
    let headers = &world.get("/twice").await["headers"];
    assert_eq!((&headers["set-cookie"], &headers["vary"]), (&json!("a=1\nb=2"), &json!("x, y")));
    world.get("/hello").await;
    assert!(!world.server.seen()[4].contains("cookie:"), "no cookie comes back by itself");
}

#[tokio::test]
async fn nothing_is_asked_that_the_manifest_does_not_allow() {
    let mut world = World::new().await;
    let port = world.server.port;
    for url in [
        world.url("evil.test", "/"),
        world.url("api.test.evil.test", "/"),
        world.url("evil-api.test", "/"),
        world.url("127.0.0.1", "/"),
        world.url("2130706433", "/"),
        "http://api.test/".to_owned(),
    ] {
        assert_eq!(world.ask(json!({ "url": url })).await.unwrap_err().code, Code::PermissionDenied, "{url}");
    }
    for url in [
        format!("http://api.test@evil.test:{port}/"),
        format!("http://api.test.:{port}/"),
        "gopher://api.test/".to_owned(),
    ] {
        assert_eq!(world.ask(json!({ "url": url })).await.unwrap_err().code, Code::InvalidInput, "{url}");
    }
    world.fixture.manifest.http.methods = vec![Method::Get];
    let post = world.ask(json!({ "method": "POST", "url": world.url("api.test", "/") })).await.unwrap_err();
    assert_eq!(post.code, Code::PermissionDenied);
    world.fixture.manifest.http = Rules::default();
    let error = world.ask(json!({ "url": world.url("api.test", "/") })).await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied, "nothing is allowed by default");
    assert!(world.server.seen().is_empty() && world.used().await == 0);
}

#[tokio::test]
async fn a_private_host_is_not_the_manifests_to_open() {
    let world = World::new().await;
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://private.test:{}/", world.server.port);
        let error = world.ask(json!({ "url": url })).await.unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied, "{error}");
    }
    assert!(world.private.seen().is_empty());
}

#[tokio::test]
async fn redirects_are_followed_where_a_request_may_go_and_nowhere_else() {
    let world = World::new().await;
    assert_eq!(world.get("/302?/hello").await["body"], "hello");
    assert_eq!(world.get(&format!("/302?{}", world.url("other.test", "/hello"))).await["body"], "hello");
    for (to, why) in [
        (world.url("evil.test", "/"), "not on the allowlist"),
        (world.url("private.test", "/"), "without tls"),
        (format!("https://private.test:{}/", world.server.port), "private"),
        (format!("https://api.test@evil.test:{}/", world.server.port), "user"),
        ("file:///etc/passwd".to_owned(), "neither http nor https"),
        ("http://[".to_owned(), "cannot be read"),
    ] {
        let reply = world.get(&format!("/302?{to}")).await;
        let reason = reply["not_followed"].as_str().unwrap_or_default();
        assert!(reply["status"] == 302 && reason.contains(why), "{to}: {reply}");
    }
    let before = world.server.seen().len();
    let looped = world.get("/loop").await;
    assert!(looped["not_followed"].as_str().unwrap().contains("redirects"), "{looped}");
    assert_eq!(world.server.seen().len() - before, send::REDIRECTS_MAX + 1);
    assert!(world.private.seen().is_empty());
    assert!(!world.server.seen().iter().any(|seen| seen.contains("host: evil.test")));
}

#[tokio::test]
async fn a_redirect_keeps_method_and_body_only_where_it_says_so() {
    let world = World::new().await;
    let post = async |path: &str| {
        let headers = json!({ "authorization": "mine", "content-type": "text/plain" });
        let request = json!({ "method": "POST", "url": world.url("api.test", path), "body": "b0dy", "headers": headers });
        world.ask(request).await.unwrap()["body"].as_str().unwrap().to_owned()
    };
    for status in ["/302", "/303"] {
        let echoed = post(&format!("{status}?/echo")).await;
        assert!(
            echoed.starts_with("GET") && !echoed.contains("b0dy") && !echoed.contains("content-type"),
            "{echoed}"
        );
        assert!(echoed.contains("authorization: mine"), "the same host");
    }
    let echoed = post(&format!("/307?{}", world.url("other.test", "/echo"))).await;
    assert!(echoed.starts_with("POST") && echoed.contains("b0dy"), "{echoed}");
    assert!(!echoed.contains("authorization"), "another host: {echoed}");
}

#[tokio::test]
async fn a_secret_reaches_its_host_and_nobody_sees_it() {
    let logs = Logs::default();
    let _guard = tracing::subscriber::set_default(logs.clone());
    let world = World::new().await;
    world.secret("key", &["api.test"], &["alice"]).await;
    let url = world.url("api.test", "/echo?k={secret:key}&p=/{secret:key}");
    let headers = json!({ "authorization": "Bearer {secret:key}" });
    let request =
        json!({ "method": "POST", "url": url, "headers": headers, "body": r#"{"key":"{secret:key}"}"# });
    let reply = world.ask(request).await.unwrap();
    let sent = world.server.seen().remove(0);
    assert!(sent.contains(&format!("authorization: Bearer {SECRET}\r\n")), "{sent}");
    assert!(sent.contains("k=sk-live-4242%2F4242%2B4242%3D&"), "{sent}");
    assert!(sent.ends_with(&format!(r#"{{"key":"{SECRET}"}}"#)), "{sent}");
    let echoed = reply["body"].as_str().unwrap();
    assert!(echoed.contains("authorization: Bearer [redacted]"), "{echoed}");
    assert!(reply["headers"]["x-echo"].as_str().unwrap().contains("[redacted]"));
    let path = world.url("api.test", "/bot{secret:key}/send");
    assert_eq!(world.ask(json!({ "url": path })).await.unwrap()["status"], 200);
    assert!(
        world.server.seen()[1].starts_with("GET /botsk-live-4242%2F4242%2B4242%3D/send HTTP"),
        "in a path"
    );
    // What a host kept of it comes back without it too, and what it makes of it in a name.
    assert_eq!(world.get("/stored").await["body"], "it was [redacted]");
    world.secret("namely", &["other.test"], &["alice"]).await;
    let reason = world.get("/host").await["not_followed"].to_string();
    assert!(reason.contains("https://[redacted].evil.test is not on"), "{reason}");
    for table in Table::ALL {
        for (_, row) in world.fixture.store.pairs(table, Vec::new(), 10_000).unwrap() {
            assert!(!holds_secret(&row), "{}: {}", table.name(), String::from_utf8_lossy(&row));
        }
    }
    tracing::warn!("the log is heard");
    let logs = logs.0.lock().unwrap();
    assert!(logs.contains("heard") && !holds_secret(logs.as_bytes()), "{logs}");
}

#[tokio::test]
async fn a_secret_is_not_sent_where_it_is_not_for() {
    let world = World::new().await;
    world.secret("key", &["api.test"], &["alice"]).await;
    world.secret("bobs", &["api.test"], &["bob"]).await;
    let denied = async |host: &str, name: &str| {
        let headers = json!({ "x-key": format!("{{secret:{name}}}") });
        let error =
            world.ask(json!({ "url": world.url(host, "/echo"), "headers": headers })).await.unwrap_err();
        (error.code, error.reason.replace(name, "NAME"))
    };
    let (code, unknown) = denied("api.test", "none").await;
    assert_eq!(code, Code::PermissionDenied);
    assert_eq!(denied("api.test", "bobs").await.1, unknown, "another's is as if it were not there");
    assert_eq!(denied("other.test", "key").await.0, Code::PermissionDenied);
    let url = format!("http://{{secret:key}}:{}/", world.server.port);
    assert_eq!(world.ask(json!({ "url": url })).await.unwrap_err().code, Code::InvalidInput, "in a host");
    let range = json!({ "x-key": "{secret:key}", "range": "bytes=0-3" });
    let error =
        world.ask(json!({ "url": world.url("api.test", "/echo"), "headers": range })).await.unwrap_err();
    assert_eq!(error.code, Code::InvalidInput);
    assert!(world.server.seen().is_empty());
    let remove = world.vault().remove("key").unwrap();
    world.fixture.store.write(remove).await.unwrap();
    assert_eq!(denied("api.test", "key").await.1, unknown, "revoked at once");
}

#[tokio::test]
async fn a_secret_does_not_follow_a_redirect_elsewhere() {
    let world = World::new().await;
    world.secret("key", &["api.test"], &["alice"]).await;
    let ask = async |path: String, more: Value| {
        let mut request = json!({ "url": world.url("api.test", &path) });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.ask(request).await.unwrap()
    };
    let header = json!({ "headers": { "x-key": "{secret:key}" } });
    let there = world.url("other.test", "/echo");
    let echoed = ask(format!("/302?{there}"), header.clone()).await;
    assert!(!echoed["body"].as_str().unwrap().contains("x-key"), "{echoed}");
    let echoed = ask("/302?/echo".to_owned(), header.clone()).await;
    assert!(echoed["body"].as_str().unwrap().contains("x-key: [redacted]"), "the same host: {echoed}");
    let posted = json!({ "method": "POST", "body": "{secret:key}" });
    for reply in [ask(format!("/307?{there}"), posted).await, ask("/leak".to_owned(), header.clone()).await] {
        assert!(reply["not_followed"].as_str().unwrap().contains("secret"), "{reply}");
    }
    // A place that a host names is no request of the agent's: nothing is filled in.
    let echoed = ask("/302?/echo%7Bsecret:key%7D".to_owned(), json!({})).await;
    assert_eq!(echoed["body"], "hello");
    assert!(
        !world
            .server
            .seen()
            .iter()
            .any(|seen| seen.contains("host: other.test") && holds_secret(seen.as_bytes()))
    );
    let packed =
        world.ask(json!({ "url": world.url("api.test", "/packed"), "headers": header["headers"] })).await;
    assert_eq!(packed.unwrap_err().code, Code::Io, "what is packed cannot be searched");
}

#[tokio::test]
async fn a_large_answer_is_cut_and_leaves_no_half_of_a_secret() {
    let world = World::new().await;
    let big = world.get("/big").await;
    assert_eq!(
        (big["body"].as_str().unwrap().len(), &big["truncated"]),
        (send::ANSWER_BYTES_MAX, &json!(true))
    );
    let kept = world.fixture.tick().read("/http/responses/0.json").await.unwrap();
    assert!(kept.len() <= used::KEPT_BYTES_MAX, "{}", kept.len());
    assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap()["truncated"], true);
    world.secret("key", &["api.test"], &["alice"]).await;
    let cut = world.get("/cut").await;
    assert_eq!(cut["body"].as_str().unwrap().len(), send::ANSWER_BYTES_MAX - 10, "ten bytes of it are gone");
}

#[tokio::test]
async fn a_lost_answer_is_unknown_only_where_asking_twice_could_hurt() {
    let world = World::new().await;
    let ask = async |method: &str, path: &str, key: Option<&str>| {
        let url = world.url("api.test", path);
        let request = json!({ "method": method, "url": url, "timeout_ms": 100, "idempotency_key": key });
        world.ask(request).await
    };
    assert_eq!(ask("GET", "/slow", None).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(ask("POST", "/slow", None).await.unwrap_err().code, Code::OutcomeUnknown);
    assert_eq!(ask("POST", "/slow", Some("k")).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(ask("POST", "/307?/slow", None).await.unwrap_err().code, Code::OutcomeUnknown);
    let seen = ask("POST", "/303?/slow", None).await.unwrap();
    assert!(seen["status"] == 303 && seen["not_followed"].is_string(), "the post was answered: {seen}");
    let service = world.fixture.mounts.find(&at("/http")).unwrap().mount.service.clone();
    let class =
        |request: Value| service.class(&at("/request"), &Change::Call(request.to_string().into_bytes()));
    let url = "https://a.example";
    assert_eq!(class(json!({ "method": "DELETE", "url": url })), Class::Idempotent);
    assert_eq!(class(json!({ "method": "POST", "url": url })), Class::AtMostOnce);
    assert_eq!(class(json!({ "method": "POST" })), Class::Transactional, "what cannot be read is not begun");
}

#[tokio::test]
async fn a_day_has_so_many_requests() {
    let mut world = World::new().await;
    world.fixture.manifest.http.per_day = 2;
    world.get("/hello").await;
    world.get("/hello").await;
    let error = world.ask(json!({ "url": world.url("api.test", "/hello") })).await.unwrap_err();
    assert_eq!(error.code, Code::BudgetExceeded);
    assert_eq!((world.server.seen().len(), world.used().await), (2, 2));
}

/// Everything that is logged, as text.
#[derive(Debug, Clone, Default)]
struct Logs(Arc<Mutex<String>>);

impl Visit for Logs {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.lock().unwrap().push_str(&format!("{field}={value:?} "));
    }
}

impl tracing::Subscriber for Logs {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        attributes.record(&mut self.clone());
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
