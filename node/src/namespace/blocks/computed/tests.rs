use oa_nips::files::Code;
use tokio::sync::watch;

use super::super::conformance::{Driver, LIMITS, path};
use super::super::{Fixed, Memory};
use super::*;

fn call(body: &str) -> Change {
    Change::Call(body.as_bytes().to_vec())
}

fn write(body: &str) -> Change {
    Change::Write(body.as_bytes().to_vec())
}

#[tokio::test]
async fn functions_answer_for_files() {
    let folder = Computed::new()
        .value("name", |cx| Ok(cx.subject()?.row.name.clone().into_bytes()))
        .value_async("slow", |cx| {
            Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(cx.now_ms.to_string().into_bytes())
            })
        })
        .settable("note", |_| Ok(b"old".to_vec()), |_, body| Ok(Effect::reply(body)))
        .append("new", |_, body| Ok(Effect::file(path("/memory/got"), Some(body.to_vec()))))
        .call("echo", |_, body| Ok(Effect::reply(body)))
        .call_async("later", |cx, body| {
            Box::pin(async move { Ok(Effect::reply([body, cx.now_ms.to_string().as_bytes()].concat())) })
        });
    let mut driver = Driver::new(folder.build());
    assert_eq!(driver.names("/").await.unwrap(), ["echo", "later", "name", "new", "note", "slow"]);
    assert_eq!(driver.read("/name").await.unwrap(), b"alice");
    assert_eq!(driver.read_span("/name", 1, 2).await.unwrap(), b"li");
    assert_eq!(driver.read("/slow").await.unwrap(), b"0");
    assert_eq!(driver.apply("/note", write("new")).await.unwrap(), b"new");
    assert_eq!(driver.apply("/echo", call("hi")).await.unwrap(), b"hi");
    assert_eq!(driver.apply("/later", call("at ")).await.unwrap(), b"at 0");
    assert_eq!(driver.apply("/new", Change::Append(b"x".to_vec())).await.unwrap(), b"");
    assert_eq!(driver.state.0[&path("/memory/got")], b"x");
    for (at, change) in
        [("/name", write("x")), ("/note", call("x")), ("/new", write("x")), ("/echo", Change::Remove)]
    {
        assert_eq!(driver.apply(at, change).await, Err(Code::PermissionDenied), "{at}");
    }
    assert_eq!(driver.read("/new").await, Err(Code::PermissionDenied));
    assert_eq!(driver.read("/").await, Err(Code::IsDir));
    assert_eq!(driver.read("/none").await, Err(Code::NotFound));
    assert_eq!(driver.read("/name/x").await, Err(Code::NotDir));
    assert_eq!(driver.stat("/echo").await.unwrap(), file("echo", FileType::Call, 0));
}

#[tokio::test]
async fn what_happens_outside_has_its_class() {
    let folder = Computed::new()
        .outside("pay", Class::AtMostOnce, |_, body| Box::pin(async move { Ok(body.to_vec()) }))
        .queryable(
            "ask",
            |_, body| Box::pin(async move { Ok(body.to_vec()) }),
            |_, body| Box::pin(async move { Ok(LookUp::Done(body.to_vec())) }),
        )
        .call("pure", |_, _| Ok(Effect::default()));
    let class = |at| folder.class(&path(at), &call(""));
    assert_eq!(class("/pay"), Class::AtMostOnce);
    assert_eq!(class("/ask"), Class::Queryable);
    assert_eq!(class("/pure"), Class::Transactional);
    let mut driver = Driver::new(folder.build());
    assert_eq!(driver.apply("/pay", call("1")).await.unwrap(), b"1");
    assert_eq!(driver.look_up("/ask", call("2")).await, Ok(LookUp::Done(b"2".to_vec())));
    assert_eq!(driver.look_up("/pay", call("2")).await, Ok(LookUp::Unknown));
}

#[tokio::test]
async fn folders_within_are_asked_by_their_own_paths() {
    let help = Fixed::new([(path("/more/text"), "help")]).unwrap();
    let folder = Computed::new()
        .folder("help", Arc::new(help))
        .folder("scratch", Arc::new(Memory::new(LIMITS)))
        .value("helper", |_| Ok(vec![]));
    let mut driver = Driver::new(folder.build());
    assert_eq!(driver.names("/").await.unwrap(), ["help/", "helper", "scratch/"]);
    assert_eq!(driver.stat("/help").await.unwrap(), dir("help"));
    assert_eq!(driver.names("/help").await.unwrap(), ["more/"]);
    assert_eq!(driver.read("/help/more/text").await.unwrap(), b"help");
    assert_eq!(driver.read("/help/none").await, Err(Code::NotFound));
    assert_eq!(driver.apply("/scratch/a", write("x")).await, Ok(vec![]));
    assert_eq!(driver.apply("/scratch/a", Change::Rename(path("/scratch/b"))).await, Ok(vec![]));
    assert_eq!(driver.read("/scratch/b").await.unwrap(), b"x");
    let elsewhere = Change::Rename(path("/help/b"));
    assert_eq!(driver.apply("/scratch/b", elsewhere).await, Err(Code::InvalidInput));
}

#[tokio::test]
async fn watches_and_streams() {
    let (sender, receiver) = watch::channel(0);
    let ring = Arc::new(Ring::new(100));
    let folder = Computed::new()
        .value("a", |_| Ok(vec![]))
        .watched("a", move |_| Ok(receiver.clone()))
        .value("b", |_| Ok(vec![]))
        .stream("log", Arc::clone(&ring));
    let driver = Driver::new(folder.build());
    let watch = driver.watch("/a").unwrap();
    sender.send(1).unwrap();
    assert!(watch.has_changed().unwrap());
    assert_eq!(driver.watch("/b").map(|_| ()), Err(Code::Unavailable));
    let watch = driver.watch("/log").unwrap();
    ring.push_line("line");
    assert!(watch.has_changed().unwrap());
    assert_eq!(driver.read("/log").await.unwrap(), b"line\n");
    assert_eq!(driver.stat("/log").await.unwrap(), file("log", FileType::Stream, 5));
}
