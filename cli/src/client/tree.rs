//! The node's tree for a mount.

use oa_nips::files::{Code, OpError, Request, Stat, Verb};

use super::{Client, fresh};
use crate::fuse::{Answer, RemoteTree};

impl Client {
    async fn op(&self, verb: Verb, path: &str, body: Vec<u8>) -> Result<Vec<u8>, OpError> {
        self.call(&Request::new(fresh(), verb, path, body)).await.map_err(OpError::from)
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, OpError> {
    serde_json::from_slice(json).map_err(|error| OpError::new(Code::Io, format!("an odd answer: {error}")))
}

impl RemoteTree for Client {
    fn stat<'a>(&'a self, path: &'a str) -> Answer<'a, Stat> {
        Box::pin(async move { parse(&self.op(Verb::Stat, path, Vec::new()).await?) })
    }

    fn list<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move { parse(&self.op(Verb::List, path, Vec::new()).await?) })
    }

    fn read<'a>(&'a self, path: &'a str, offset: u64, count: u64) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let request = Request { offset, count, ..Request::new(fresh(), Verb::Read, path, Vec::new()) };
            Ok(self.call(&request).await?)
        })
    }

    fn write<'a>(&'a self, path: &'a str, body: Vec<u8>) -> Answer<'a, ()> {
        Box::pin(async move { self.op(Verb::Write, path, body).await.map(drop) })
    }

    fn append<'a>(&'a self, path: &'a str, body: Vec<u8>) -> Answer<'a, ()> {
        Box::pin(async move { self.op(Verb::Append, path, body).await.map(drop) })
    }

    fn call<'a>(&'a self, path: &'a str, body: Vec<u8>) -> Answer<'a, Vec<u8>> {
        Box::pin(self.op(Verb::Call, path, body))
    }

    fn mkdir<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.op(Verb::Mkdir, path, Vec::new()).await.map(drop) })
    }

    fn remove<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.op(Verb::Remove, path, Vec::new()).await.map(drop) })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.op(Verb::Rename, from, to.as_bytes().to_vec()).await.map(drop) })
    }
}
