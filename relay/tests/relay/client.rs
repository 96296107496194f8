//! A raw websocket client, without a Nostr library's retries and guesses. Every wait has a deadline.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use oa_nips::nostr::{Event, EventBuilder, JsonUtil, Keys};
use oa_relay::{Config, Limits, Relay, StoreConfig};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// Longest wait for anything; reached only by a failing test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn config(limits: Limits) -> Config {
    Config { limits, ..Config::new("127.0.0.1:0".parse().expect("an address"), StoreConfig::Memory) }
}

/// A relay in memory with these limits.
pub(crate) async fn relay(limits: Limits) -> Relay {
    Relay::start(config(limits)).await.expect("starts")
}

pub(crate) fn note(keys: &Keys, text: &str) -> Event {
    EventBuilder::text_note(text).sign_with_keys(keys).expect("signs")
}

pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("within the deadline")
}

pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    pub(crate) async fn connect(relay: &Relay) -> Client {
        Client::try_connect(relay).await.expect("connects")
    }

    pub(crate) async fn try_connect(relay: &Relay) -> Result<Client, tokio_tungstenite::tungstenite::Error> {
        let tcp = TcpStream::connect(relay.local_addr()).await?;
        tcp.set_nodelay(true)?;
        let (socket, _) = within(tokio_tungstenite::client_async(relay.url(), tcp)).await?;
        Ok(Client { socket })
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.send_text(message.to_string()).await;
    }

    pub(crate) async fn send_text(&mut self, text: String) {
        within(self.socket.send(Message::text(text))).await.expect("sends");
    }

    /// The next message, or the close frame (if any) the relay ended with.
    pub(crate) async fn next(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            return match within(self.socket.next()).await {
                Some(Ok(Message::Text(text))) => Ok(serde_json::from_str(&text).expect("json")),
                Some(Ok(Message::Close(frame))) => Err(frame),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Err(None),
            };
        }
    }

    pub(crate) async fn message(&mut self) -> Value {
        self.next().await.expect("a message and not the end")
    }

    /// Reads to the close frame and gives its code.
    pub(crate) async fn close_code(&mut self) -> Option<u16> {
        loop {
            if let Err(frame) = self.next().await {
                return frame.map(|frame| frame.code.into());
            }
        }
    }

    pub(crate) async fn send_event(&mut self, event: &Event) {
        self.send_text(format!(r#"["EVENT",{}]"#, event.as_json())).await;
    }

    /// Publishes and waits for the answer.
    pub(crate) async fn publish(&mut self, event: &Event) -> (bool, String) {
        self.send_event(event).await;
        let answer = self.message().await;
        assert_eq!(answer[0], "OK", "{answer}");
        assert_eq!(answer[1], event.id.to_hex(), "{answer}");
        (answer[2].as_bool().expect("a bool"), answer[3].as_str().expect("a string").to_owned())
    }

    /// Subscribes and returns the stored events, up to EOSE.
    pub(crate) async fn request(&mut self, id: &str, filter: Value) -> Vec<Event> {
        self.send(json!(["REQ", id, filter])).await;
        let mut events = Vec::new();
        loop {
            let message = self.message().await;
            assert_eq!(message[1], id, "{message}");
            match message[0].as_str() {
                Some("EVENT") => events.push(Event::from_json(message[2].to_string()).expect("an event")),
                Some("EOSE") => return events,
                _ => panic!("{message}"),
            }
        }
    }

    /// The next message, which must be a live event.
    pub(crate) async fn live(&mut self) -> Event {
        let message = self.message().await;
        assert_eq!(message[0], "EVENT", "{message}");
        Event::from_json(message[2].to_string()).expect("an event")
    }
}
