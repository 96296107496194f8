//! What each type of file makes of what programs do.

use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};

use oa_nips::files::{Code, Verb};
use rustix::io::Errno;

use super::*;

const BOTH: [&str; 2] = ["did tick\n", ""];

#[test]
fn a_call_file_by_one_handle() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/ctl", FileType::Call, b"");
    let mut file = for_both(&scene.path("ctl")).unwrap();
    file.write_all(b"tick").unwrap();
    file.write_all(b"\n").unwrap();
    // Read on from where the writing ended, as a shell does.
    assert_eq!([read_some(&mut file).unwrap(), read_some(&mut file).unwrap()], BOTH);
    // And from the beginning, as `pread` and `seek` do.
    file.seek(SeekFrom::Start(4)).unwrap();
    assert_eq!(read_some(&mut file).unwrap(), "tick\n");
    file.write_all(b"stop").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    assert_eq!(read_some(&mut file).unwrap(), "did stop");
    drop(file);
    assert_eq!(scene.tree.asked(Verb::Call), ["tick\n", "stop"]);
}

#[test]
fn a_call_file_by_a_shell() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/ctl", FileType::Call, b"");
    let sh = |script: &str| {
        let done = Command::new("bash").arg("-c").arg(script).current_dir(scene.dir.path()).output().unwrap();
        (String::from_utf8_lossy(&done.stdout).into_owned(), done.status.success())
    };
    // Each part of the request closes a copy of the descriptor.
    assert_eq!(sh("exec 3<>ctl; echo a >&3; /bin/echo b >&3; cat <&3"), ("did a\nb\n".into(), true));
    assert_eq!(scene.tree.asked(Verb::Call), ["a\nb\n"]);
    assert_eq!(sh("echo tick > ctl"), (String::new(), true));
    assert_eq!(sh("printf x 1<>ctl").0, "");
    wait_for("all calls", || scene.tree.asked(Verb::Call).len() == 3);
    assert_eq!(scene.tree.asked(Verb::Call)[1..], ["tick\n", "x"]);
    // Looking at everything calls nothing.
    assert!(!sh("cat ctl").1);
    sh("grep -r x .; ls -lR; cp -r . /dev/null; find . -size +1");
    assert_eq!(scene.tree.asked(Verb::Call).len(), 3);
}

#[test]
fn a_call_that_fails_fails_the_reader_and_is_not_made_twice() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/ctl", FileType::Call, b"");
    scene.tree.refuse(Some((Verb::Call, Code::BudgetExceeded)));
    let mut file = for_both(&scene.path("ctl")).unwrap();
    file.write_all(b"pay").unwrap();
    assert_eq!(errno(read_some(&mut file)), Some(Errno::DQUOT.raw_os_error()));
    scene.tree.refuse(None);
    assert_eq!(errno(read_some(&mut file)), Some(Errno::DQUOT.raw_os_error()));
    drop(file);
    assert_eq!(scene.tree.asked(Verb::Call), ["pay"]);
}

#[test]
fn an_append_file_takes_one_message_a_handle() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/new", FileType::Append, b"");
    let append = || OpenOptions::new().append(true).open(scene.path("new")).unwrap();
    let mut file = append();
    file.write_all(b"hello ").unwrap();
    file.write_all(b"world").unwrap();
    assert!(scene.tree.asked(Verb::Append).is_empty());
    drop(file);
    let mut file = append();
    file.write_all(b"one").unwrap();
    file.sync_all().unwrap();
    file.write_all(b"two").unwrap();
    drop(file);
    std::fs::write(scene.path("new"), "three").unwrap();
    drop(append());
    assert_eq!(scene.tree.asked(Verb::Append), ["hello world", "one", "two", "three"]);
    assert!(scene.tree.asked(Verb::Write).is_empty());
    assert_eq!(errno(std::fs::read(scene.path("new"))), Some(Errno::ACCESS.raw_os_error()));
}

#[test]
fn a_message_that_failed_is_told_once_and_not_sent_again() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/new", FileType::Append, b"");
    scene.tree.refuse(Some((Verb::Append, Code::RateLimited)));
    let mut file = OpenOptions::new().append(true).open(scene.path("new")).unwrap();
    file.write_all(b"hello").unwrap();
    assert_eq!(errno(file.sync_all()), Some(Errno::AGAIN.raw_os_error()));
    scene.tree.refuse(None);
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(scene.tree.asked(Verb::Append), ["hello"]);
}

#[test]
fn a_stream_is_followed_and_its_end_is_no_wait() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/log", FileType::Stream, b"one\n");
    let mut file = File::open(scene.path("log")).unwrap();
    assert_eq!([read_some(&mut file).unwrap(), read_some(&mut file).unwrap()], ["one\n", ""]);
    let mut tail = Command::new("tail")
        .args(["-n", "+1", "-s", "0.05", "-f"])
        .arg(scene.path("log"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(tail.stdout.take().unwrap()));
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "one");
    for n in 0..20 {
        scene.tree.grow("/log", format!("line {n}\n").as_bytes());
        assert_eq!(next(), format!("line {n}"));
    }
    tail.kill().unwrap();
    tail.wait().unwrap();
    assert_eq!(read_some(&mut file).unwrap().lines().count(), 20);
    assert_eq!(errno(for_both(&scene.path("log"))), Some(Errno::ACCESS.raw_os_error()));
}

#[test]
fn a_stream_that_let_its_beginning_go_is_read_once() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/log", FileType::Stream, b"gone\ngone\none\ntwo\n");
    scene.tree.let_go("/log", 10);
    // More reads than one, as of any program with a buffer that is too small.
    let log = File::open(scene.path("log")).unwrap();
    let dd = Command::new("dd").args(["bs=3", "status=none"]).stdin(log).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&dd.stdout), "one\ntwo\n");
    let mut tail = Command::new("tail")
        .args(["-n", "1", "-s", "0.05", "-f"])
        .arg(scene.path("log"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(tail.stdout.take().unwrap()));
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "two");
    scene.tree.grow("/log", b"three\n");
    assert_eq!(next(), "three");
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn a_value_is_one_version_from_beginning_to_end() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/status", FileType::Value, b"first version");
    let file = File::open(scene.path("status")).unwrap();
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0).unwrap();
    scene.tree.put("/status", FileType::Value, b"the second, longer version");
    let mut rest = [0; 64];
    let count = file.read_at(&mut rest, 5).unwrap();
    assert_eq!([&bytes[..], &rest[..count]].concat(), b"first version");
    assert_eq!(std::fs::read(scene.path("status")).unwrap(), b"the second, longer version");
}

#[test]
fn readers_and_a_writer_at_once_see_whole_versions() {
    const ROUNDS: u8 = 40;
    // Longer than one request of the kernel, so that a version takes several.
    const LEN: usize = 3 << 20;
    let Some(scene) = Scene::new() else { return };
    let path = scene.path("value");
    std::fs::write(&path, vec![0; LEN]).unwrap();
    let read = || {
        let mut last = 0;
        let mut reads = 0;
        while last + 1 < ROUNDS {
            let bytes = std::fs::read(&path).unwrap();
            let version = bytes[0];
            assert_eq!(bytes.len(), LEN - usize::from(version));
            assert!(bytes.iter().all(|byte| *byte == version), "a mix of versions");
            assert!(version >= last, "back in time");
            (last, reads) = (version, reads + 1);
        }
        reads
    };
    let write = || {
        for version in 1..ROUNDS {
            let bytes = vec![version; LEN - usize::from(version)];
            let mut file = File::create(&path).unwrap();
            bytes.chunks(700_000).for_each(|chunk| file.write_all(chunk).unwrap());
        }
    };
    let reads: usize = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
        scope.spawn(write).join().unwrap();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(reads >= 4);
}

#[test]
fn a_file_of_5_mb_goes_there_and_back() {
    let Some(scene) = Scene::new() else { return };
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), &bytes).unwrap();
    let cp = |from: &Path, to: &Path| {
        assert!(Command::new("cp").args([from, to]).status().unwrap().success());
    };
    cp(source.path(), &scene.path("big"));
    assert!(scene.tree.content("/big").unwrap() == bytes);
    assert_eq!(std::fs::metadata(scene.path("big")).unwrap().len(), 5_000_000);
    cp(&scene.path("big"), source.path());
    assert!(std::fs::read(source.path()).unwrap() == bytes);
    assert_eq!(scene.tree.asked(Verb::Write).len(), 1);
    let over = vec![0; oa_nips::files::MESSAGE_BYTES_MAX + 1];
    assert_eq!(errno(std::fs::write(scene.path("huge"), over)), Some(Errno::FBIG.raw_os_error()));
}

#[test]
fn an_editor_saves_by_way_of_a_backup() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/note", FileType::Value, b"old");
    let path = scene.path("note");
    // Whether files can be created here.
    let probe = scene.path("4913");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&probe).unwrap();
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o640)).unwrap();
    assert_eq!(std::fs::metadata(&probe).unwrap().len(), 0);
    drop(file);
    std::fs::remove_file(&probe).unwrap();
    std::fs::rename(&path, scene.path("note~")).unwrap();
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
    file.write_all(b"new text").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 8);
    file.sync_all().unwrap();
    assert_eq!(scene.tree.content("/note").unwrap(), b"new text");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(file);
    std::fs::remove_file(scene.path("note~")).unwrap();
    // And by a temporary file that is renamed.
    std::fs::write(scene.path(".note.swp"), "newer").unwrap();
    std::fs::rename(scene.path(".note.swp"), &path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"newer");
    let names: Vec<_> =
        std::fs::read_dir(scene.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["note"]);
}

#[test]
fn a_new_file_is_known_here_before_it_is_sent() {
    let Some(scene) = Scene::new() else { return };
    let mut file = File::create(scene.path("new")).unwrap();
    file.write_all(b"half").unwrap();
    assert_eq!(scene.tree.content("/new"), None);
    assert_eq!(std::fs::metadata(scene.path("new")).unwrap().len(), 4);
    assert_eq!(std::fs::read_dir(scene.dir.path()).unwrap().count(), 1);
    std::fs::rename(scene.path("new"), scene.path("other")).unwrap();
    file.write_all(b" and half").unwrap();
    drop(file);
    assert_eq!(
        (scene.tree.content("/new"), scene.tree.content("/other").unwrap()),
        (None, b"half and half".into())
    );
    // One that is removed before goes nowhere, and is still a file to who has it open.
    let mut file = File::create_new(scene.path("gone")).unwrap();
    file.write_all(b"scratch").unwrap();
    std::fs::remove_file(scene.path("gone")).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    assert_eq!(read_some(&mut file).unwrap(), "scratch");
    assert_eq!(file.metadata().unwrap().size(), 7);
    drop(file);
    assert_eq!(scene.tree.asked(Verb::Write), ["half and half"]);
}

#[test]
fn what_is_not_taken_is_told_at_close_and_at_sync() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/manifest", FileType::Value, b"good");
    for (code, wanted) in [
        (Code::InvalidInput, Errno::INVAL),
        (Code::PermissionDenied, Errno::ACCESS),
        (Code::ApprovalRequired, Errno::PERM),
        (Code::OutcomeUnknown, Errno::IO),
    ] {
        scene.tree.refuse(Some((Verb::Write, code)));
        let mut file = File::create(scene.path("manifest")).unwrap();
        file.write_all(b"bad").unwrap();
        assert_eq!(errno(file.sync_all()), Some(wanted.raw_os_error()));
        drop(file);
        let cp = Command::new("cp").arg("/proc/version").arg(scene.path("manifest")).output().unwrap();
        assert!(!cp.status.success() && !cp.stderr.is_empty(), "cp believes that it worked");
    }
    assert_eq!(scene.tree.content("/manifest").unwrap(), b"good");
    // What may be written and not read is opened for that alone.
    scene.tree.refuse(Some((Verb::Read, Code::PermissionDenied)));
    std::fs::write(scene.path("manifest"), "secret").unwrap();
    assert_eq!(errno(std::fs::read(scene.path("manifest"))), Some(Errno::ACCESS.raw_os_error()));
    assert_eq!(scene.tree.content("/manifest").unwrap(), b"secret");
}

#[test]
fn a_file_that_is_not_open_is_cut() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/value", FileType::Value, b"0123456789");
    scene.tree.put("/new", FileType::Append, b"");
    // The standard library has no `truncate` by path.
    let cut = |name: &str, len: u64| {
        let script = "truncate($ARGV[0], $ARGV[1]) or exit 1";
        let args = [scene.path(name).into_os_string(), len.to_string().into()];
        Command::new("perl").args(["-e", script]).args(args).status().unwrap().success()
    };
    assert!(cut("value", 4) && cut("value", 6));
    assert_eq!(scene.tree.content("/value").unwrap(), b"0123\0\0");
    assert_eq!(std::fs::metadata(scene.path("value")).unwrap().len(), 6);
    assert!(cut("value", 0));
    assert_eq!(scene.tree.content("/value").unwrap(), b"");
    assert!(cut("new", 0) && !cut("new", 1) && !cut("none", 0));
}

#[test]
fn a_folder_is_listed_with_its_sizes_in_one_question() {
    let Some(scene) = Scene::new() else { return };
    for n in 0..300 {
        scene.tree.put(&format!("/{n:03}-{}", "x".repeat(100)), FileType::Value, &vec![0; n + 1]);
    }
    let done =
        Command::new("ls").args(["-l", "--time-style=+"]).current_dir(scene.dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let sizes: Vec<usize> =
        text.lines().skip(1).map(|l| l.split_whitespace().nth(4).unwrap().parse().unwrap()).collect();
    assert_eq!(sizes, (1..=300).collect::<Vec<_>>());
    assert_eq!(scene.tree.asked(Verb::List).len(), 1);
    assert!(scene.tree.asked(Verb::Stat).len() < 10, "one question for each file");
}

#[test]
fn a_slow_file_does_not_hold_up_the_others() {
    let Some(scene) = Scene::short() else { return };
    scene.tree.put("/fast", FileType::Value, b"fast");
    scene.tree.silence(Some("/slow"));
    std::thread::scope(|scope| {
        let slow = |n: i32| errno(std::fs::read(scene.path(&format!("slow{n}"))));
        let slow: Vec<_> = (0..4).map(|n| scope.spawn(move || slow(n))).collect();
        wait_for("the slow ones", || scene.tree.asked(Verb::Stat).len() >= 4);
        for _ in 0..20 {
            assert_eq!(std::fs::read(scene.path("fast")).unwrap(), b"fast");
        }
        assert!(slow.iter().all(|slow| !slow.is_finished()), "the fast ones waited");
        slow.into_iter().for_each(|slow| assert_eq!(slow.join().unwrap(), Some(Errno::IO.raw_os_error())));
    });
}

#[test]
fn what_is_half_written_is_not_sent() {
    let Some(scene) = Scene::new() else { return };
    scene.tree.put("/value", FileType::Value, b"old");
    scene.tree.put("/new", FileType::Append, b"");
    scene.tree.put("/ctl", FileType::Call, b"");
    // A shell empties a file, copies the descriptor, closes the first, and writes to the second.
    let sh = |script: &str| {
        let status = Command::new("bash").args(["-ec", script]).current_dir(scene.dir.path()).status();
        assert!(status.unwrap().success(), "{script}");
    };
    sh("echo text > value; echo more >> value; echo other > fresh");
    assert_eq!(scene.tree.asked(Verb::Write), ["text\n", "text\nmore\n", "other\n"]);
    sh(": > value; touch empty; : > fresh");
    assert_eq!(scene.tree.asked(Verb::Write)[3..], ["", "", ""]);
    // A program that starts another, which closes its copies of all descriptors.
    let files = ["value", "new", "ctl"].map(|name| {
        let mut file = OpenOptions::new().write(true).open(scene.path(name)).unwrap();
        file.write_all(b"first ").unwrap();
        file
    });
    let unwritten = File::create(scene.path("unwritten")).unwrap();
    assert!(Command::new("true").status().unwrap().success());
    for mut file in files {
        file.write_all(b"second").unwrap();
    }
    assert_eq!(scene.tree.content("/unwritten"), None);
    drop(unwritten);
    assert_eq!(scene.tree.asked(Verb::Write)[6..], ["first second", ""]);
    assert_eq!(scene.tree.asked(Verb::Append), ["first second"]);
    assert_eq!(scene.tree.asked(Verb::Call), ["first second"]);
    // Who writes is another process than who opened.
    sh("exec 3>value 4>>new; /bin/echo child >&3; /bin/echo child >&4; echo shell >&4");
    assert_eq!(scene.tree.content("/value").unwrap(), b"child\n");
    assert_eq!(scene.tree.asked(Verb::Append)[1..], ["child\n", "shell\n"]);
}
