//! `/peers/find` and `/node/find`: agents by what they can do, or by name.

use std::sync::Arc;

use oa_nips::files::Code;

use super::{Parts, at};
use crate::discovery::{Finder, Reach};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Class, Context, FileService, FileType, Span, Stat, file, not_taken,
};

/// The call file, which asks relays and domains: asking again does no harm.
#[derive(Debug)]
struct Find {
    finder: Arc<Finder>,
    path: &'static str,
}

/// Mounts it at a path of an agent's tree or the node's.
pub(super) fn mount(mounts: &mut Mounts, parts: &Parts, path: &'static str) {
    let find = Find { finder: parts.finder.clone(), path };
    mounts.mount_file(at(path), FileType::Call, Arc::new(find), "who can be found");
}

fn here(path: &Path) -> Result<(), Error> {
    if *path == Path::root() { Ok(()) } else { Err(Error::not_found(path)) }
}

impl FileService for Find {
    fn stat<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move { here(path).map(|()| file("", FileType::Call, 0)) })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            here(path)?;
            Err(Error::not_dir(path))
        })
    }

    fn read<'a>(&'a self, _: &'a Context<'a>, path: &'a Path, _: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            here(path)?;
            Err(Error::new(Code::PermissionDenied, path, "is not to be read"))
        })
    }

    fn class(&self, _: &Path, _: &Change) -> Class {
        Class::Idempotent
    }

    fn act<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            here(path)?;
            let Change::Call(request) = change else { return Err(not_taken(path, change)) };
            self.finder.find(self.path, request, Reach::of(cx)).await
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::agent::manifest::{Http, Manifest, Method};
    use crate::agent::site::Site;
    use crate::drivers::http::Client;
    use crate::drivers::http::fixture::{Server, answer};
    use crate::serve::fixture::{Fixture, someone};

    /// A domain that knows everybody, and an agent that may ask it so often.
    async fn world(per_day: u32) -> (Server, Fixture, String) {
        let key = someone().to_hex();
        let server = Server::start("127.0.0.1:0", move |request| {
            let name = request.split_once("name=").and_then(|(_, rest)| rest.split([' ', '&']).next());
            answer("200 OK", "", json!({ "names": { name.unwrap_or_default(): key } }).to_string())
        })
        .await;
        let domain = format!("127.0.0.1:{}", server.port);
        let mut fixture = Fixture::with_http(Client::of_node(std::slice::from_ref(&domain)));
        let allow = vec![Site::parse(&format!("http://{domain}")).unwrap()];
        fixture.manifest.http = Http { allow, per_day, ..Http::default() };
        (server, fixture, domain)
    }

    async fn find(fixture: &Fixture, name: &str, domain: &str) -> Result<(), Code> {
        let asked = json!({ "name": format!("{name}@{domain}") }).to_string();
        fixture.tick().call("/peers/find", asked.as_bytes()).await.map(drop).map_err(|error| error.code)
    }

    async fn used(fixture: &Fixture) -> u64 {
        let policy = fixture.tick().read("/http/policy").await.unwrap();
        serde_json::from_slice::<Value>(&policy).unwrap()["used_today"].as_u64().unwrap()
    }

    #[tokio::test]
    async fn a_name_that_is_looked_up_is_one_of_the_days_requests() {
        let (server, fixture, domain) = world(2).await;
        for _ in 0..3 {
            assert_eq!(find(&fixture, "bob", &domain).await, Ok(()));
        }
        assert_eq!((used(&fixture).await, server.seen().len()), (1, 1), "what is remembered is no request");
        let request = json!({ "url": format!("http://{domain}/x") }).to_string();
        fixture.tick().call("/http/request", request.as_bytes()).await.unwrap();
        assert_eq!(find(&fixture, "eve", &domain).await, Err(Code::BudgetExceeded));
        assert_eq!((used(&fixture).await, server.seen().len()), (2, 2), "and nobody was asked");
        assert_eq!(find(&fixture, "bob", &domain).await, Ok(()), "still remembered");
    }

    #[tokio::test]
    async fn a_domain_is_asked_only_as_the_manifest_lets_requests_go() {
        let (server, mut fixture, domain) = world(2).await;
        fixture.manifest.http.methods = vec![Method::Post];
        assert_eq!(find(&fixture, "bob", &domain).await, Err(Code::PermissionDenied), "a look-up is a GET");
        fixture.manifest.http.methods = Http::default().methods;
        fixture.manifest.mounts = toml::from_str::<Manifest>(
            "name = \"a\"\nprogram = \"echo\"\n[[mounts]]\npath = \"/http\"\naccess = \"disabled\"",
        )
        .unwrap()
        .mounts;
        assert_eq!(find(&fixture, "bob", &domain).await, Err(Code::PermissionDenied), "/http is taken away");
        fixture.manifest.mounts = Vec::new();
        fixture.manifest.http = Http { allow: Vec::new(), ..Http::default() };
        assert_eq!(find(&fixture, "bob", &domain).await, Err(Code::PermissionDenied));
        assert_eq!((used(&fixture).await, server.seen().len()), (0, 0));
    }
}
