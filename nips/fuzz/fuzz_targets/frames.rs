//! Frames of the operator protocol, one a line, put together as they come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oa_nips::files::{self, Assembler, Frame, Message};

fn assemble(frames: &[Frame]) -> Option<Message> {
    let mut assembler = Assembler::default();
    frames.iter().find_map(|frame| assembler.push(frame.clone()).expect("our own frames fit each other"))
}

fuzz_target!(|text: &str| {
    let mut assembler = Assembler::default();
    for frame in text.lines().filter_map(|line| Frame::parse(line).ok()) {
        let op = frame.op;
        assert_eq!(Frame::parse(&frame.to_json()).expect("what was read is written"), frame);
        let Ok(Some(message)) = assembler.push(frame) else { continue };
        let reply = message.clone().into_reply();
        let again = assemble(&files::reply_frames(op, &reply)).expect("a whole reply").into_reply();
        match (&again, &reply) {
            // A sentence is cut.
            (Err(again), Err(error)) => {
                assert!(again.code == error.code && error.message.starts_with(&again.message))
            }
            _ => assert_eq!(again, reply),
        }
        let Ok(request) = message.into_request(op) else { continue };
        let again = assemble(&request.frames()).expect("a whole request").into_request(op);
        assert_eq!(again.expect("with its ask"), request);
    }
});
