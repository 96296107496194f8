use proptest::prelude::*;

use super::super::conformance::{self, Driver, LIMITS, Model, path};
use super::super::{Fixed, Memory};
use super::*;

fn over(lower: impl FileService + 'static) -> Driver {
    let cow = Cow::new(Arc::new(lower), path("/cow/workspace")).holding(LIMITS.file_bytes_max);
    Driver::new(Arc::new(cow))
}

fn write(content: &str) -> Change {
    Change::Write(content.as_bytes().to_vec())
}

fn rename(to: &str) -> Change {
    Change::Rename(path(to))
}

fn lower() -> Fixed {
    Fixed::new([("/f", "low"), ("/d/g", "low"), ("/d/sub/h", "low")].map(|(at, text)| (path(at), text)))
        .unwrap()
}

#[tokio::test]
async fn over_nothing_it_is_a_plain_folder() {
    conformance::suite(&mut over(Memory::default())).await;
}

#[tokio::test]
async fn over_an_emptied_folder_it_is_a_plain_folder() {
    let mut it = over(lower());
    for at in ["/f", "/d/g", "/d/sub/h", "/d/sub", "/d"] {
        assert_eq!(it.apply(at, Change::Remove).await, Ok(vec![]), "{at}");
    }
    conformance::suite(&mut it).await;
}

#[tokio::test]
async fn the_lower_one_never_changes_and_the_state_has_the_difference() {
    let below = Arc::new(lower());
    let cow = Cow::new(Arc::clone(&below) as Arc<dyn FileService>, path("/cow/workspace"));
    let mut it = Driver::new(Arc::new(cow));
    let before = Driver::new(below).walk().await;
    assert_eq!(it.walk().await, before);
    assert_eq!(it.apply("/f", Change::Append(b" and mine".to_vec())).await, Ok(vec![]));
    assert_eq!(it.read("/f").await.unwrap(), b"low and mine");
    assert_eq!(it.apply("/d/g", Change::Remove).await, Ok(vec![]));
    assert_eq!(it.names("/d").await.unwrap(), ["sub/"]);
    let state: Vec<&str> = it.state.0.keys().map(Path::as_str).collect();
    assert_eq!(state, ["/cow/workspace/f/f", "/cow/workspace/w/d/g"]);
    let below = Driver::new(Arc::new(lower()));
    assert_eq!(below.walk().await, before);
}

#[tokio::test]
async fn a_folder_made_anew_shows_nothing_of_the_old_one() {
    let mut it = over(lower());
    for at in ["/d/g", "/d/sub/h", "/d/sub", "/d"] {
        assert_eq!(it.apply(at, Change::Remove).await, Ok(vec![]), "{at}");
    }
    assert_eq!(it.names("/").await.unwrap(), ["f"]);
    assert_eq!(it.apply("/d", Change::Mkdir).await, Ok(vec![]));
    assert_eq!(it.names("/d").await.unwrap(), [""; 0]);
    assert_eq!(it.apply("/d", Change::Remove).await, Ok(vec![]));
    assert_eq!(it.stat("/d").await, Err(Code::NotFound));
    assert_eq!(it.stat("/d/g").await, Err(Code::NotFound));
}

#[tokio::test]
async fn a_renamed_folder_takes_everything_along() {
    let mut it = over(lower());
    assert_eq!(it.apply("/d/mine", write("mine")).await, Ok(vec![]));
    assert_eq!(it.apply("/d", rename("/e")).await, Ok(vec![]));
    assert_eq!(it.names("/").await.unwrap(), ["e/", "f"]);
    assert_eq!(it.names("/e").await.unwrap(), ["g", "mine", "sub/"]);
    assert_eq!(it.read("/e/sub/h").await.unwrap(), b"low");
    assert_eq!(it.apply("/e", rename("/d")).await, Ok(vec![]));
    assert_eq!(it.names("/d").await.unwrap(), ["g", "mine", "sub/"]);
    assert_eq!(it.stat("/e").await, Err(Code::NotFound));
}

#[tokio::test]
async fn a_rename_copies_no_more_than_its_bound() {
    let many = (0..MOVED_ENTRIES_MAX).map(|number| (path(&format!("/d/{number}")), ""));
    let mut it = over(Fixed::new(many).unwrap());
    assert_eq!(it.apply("/d", rename("/e")).await, Err(Code::TooLarge));
    assert_eq!(it.apply("/d/1", Change::Remove).await, Ok(vec![]));
    assert_eq!(it.apply("/d", rename("/e")).await, Ok(vec![]));
    let mut it = over(Fixed::new([(path("/big"), vec![0; LIMITS.file_bytes_max + 1])]).unwrap());
    assert_eq!(it.apply("/big", rename("/moved")).await, Err(Code::TooLarge));
}

#[tokio::test]
async fn what_changes_beneath_shows_where_the_agent_changed_nothing() {
    let memory = Arc::new(Memory::default());
    let lower = Arc::clone(&memory) as Arc<dyn FileService>;
    let mut it = Driver::new(Arc::new(Cow::new(lower, path("/cow/workspace"))));
    memory.apply(&path("/d"), &Change::Mkdir).unwrap();
    memory.apply(&path("/d/low"), &write("1")).unwrap();
    assert_eq!(it.apply("/d/mine", write("mine")).await, Ok(vec![]));
    memory.apply(&path("/d/low"), &write("2")).unwrap();
    assert_eq!(it.read("/d/low").await.unwrap(), b"2");
    memory.apply(&path("/d/low"), &Change::Remove).unwrap();
    memory.apply(&path("/d"), &Change::Remove).unwrap();
    assert_eq!(it.names("/").await.unwrap(), ["d/"], "the agent's file keeps its folder");
    assert_eq!(it.read("/d/mine").await.unwrap(), b"mine");
}

#[tokio::test]
async fn without_an_agent_there_is_no_such_folder() {
    let mut nobody = over(lower()).without_agent();
    assert_eq!(nobody.read("/f").await, Err(Code::NotFound));
    assert_eq!(nobody.apply("/f", write("x")).await, Err(Code::NotFound));
}

proptest! {
    #[test]
    fn over_any_folder_random_operations_end_as_in_the_model(
        before in conformance::ops(),
        ops in conformance::ops(),
    ) {
        let (memory, mut model) = (Memory::new(LIMITS), Model::default());
        for (at, change) in &before {
            let _ = (memory.apply(at, change), model.apply(at, change));
        }
        conformance::against_model(over(memory), model, &ops);
    }
}
