//! The servers that keybeat is compared with: small programs that send each change to all sockets, and do nothing else.

use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Names the server that this program is, instead of the bench.
const PEER: &str = "KEYBEAT_BENCH_PEER";
const SNAPSHOT: &str = r#"{"type":"snapshot"}"#;

/// A running server. Each line of its standard input is the number of a change.
pub struct Peer {
    pub port: u16,
    child: Child,
    changes: ChildStdin,
}

impl Peer {
    /// Starts a server and reads its port; `None` if it is not installed.
    pub fn start(name: &str) -> Option<Peer> {
        let mut command = match name {
            "Node, ws" => node()?,
            name => {
                let mut command = Command::new(std::env::current_exe().ok()?);
                command.env(PEER, name);
                command
            }
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
        let port = line.trim().parse().unwrap_or_else(|_| panic!("{name} printed {line:?} and no port"));
        let changes = child.stdin.take()?;
        Some(Peer { port, child, changes })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn change(&mut self, number: u64) {
        writeln!(self.changes, "{number}").expect("the server reads");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Node server, with the package that it needs.
fn node() -> Option<Command> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench-peers");
    std::fs::create_dir_all(&folder).ok()?;
    std::fs::write(folder.join("package.json"), r#"{"private":true,"type":"module"}"#).ok()?;
    if !folder.join("node_modules/ws").exists() {
        let install = ["install", "--silent", "--no-audit", "--no-fund", "ws@8"];
        Command::new("npm").args(install).current_dir(&folder).status().ok().filter(|done| done.success())?;
    }
    std::fs::write(folder.join("server.js"), include_str!("node_ws.mjs")).ok()?;
    let mut command = Command::new("node");
    command.arg("server.js").current_dir(folder);
    Some(command)
}

/// Runs the server that the environment names, and never returns then.
pub fn serve_if_asked() {
    match std::env::var(PEER).as_deref() {
        Ok("axum, broadcast channel") => serve_axum(),
        Ok("send, one thread") => serve_sends(1),
        Ok("send, two threads") => serve_sends(2),
        Ok(other) => panic!("there is no server {other}"),
        Err(_) => return,
    }
    std::process::exit(0);
}

/// As long as a transition of keybeat.
fn message(number: &str) -> String {
    format!(
        r#"{{"type":"transitions","seq":{number},"transitions":[{{"seq":{number},"user":"crowd-1","state":"online","at_ms":1690000000000,"since_ms":1690000000000,"reason":"heartbeat"}}]}}"#
    )
}

fn changes() -> impl Iterator<Item = String> {
    std::io::stdin().lines().map_while(Result::ok).map(|number| message(&number))
}

/// The usual program in Rust: a broadcast channel, and a task for each socket.
fn serve_axum() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (sender, _) = broadcast::channel::<Utf8Bytes>(64);
        let app = axum::Router::new().route("/v1/ws", get(upgrade)).with_state(sender.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address").port());
        std::thread::spawn(move || {
            changes().for_each(|text| drop(sender.send(text.into())));
            std::process::exit(0);
        });
        axum::serve(listener, app).await.expect("it serves");
    });
}

async fn upgrade(State(sender): State<broadcast::Sender<Utf8Bytes>>, upgrade: WebSocketUpgrade) -> Response {
    let upgrade = upgrade.protocols(["keybeat.v1"]).read_buffer_size(1024).write_buffer_size(0);
    upgrade.on_upgrade(move |socket| live(socket, sender.subscribe()))
}

async fn live(mut socket: WebSocket, mut changes: broadcast::Receiver<Utf8Bytes>) {
    let _ = socket.send(Message::Text(SNAPSHOT.into())).await;
    loop {
        tokio::select! {
            Ok(text) = changes.recv() => {
                if socket.send(Message::Text(text)).await.is_err() {
                    return;
                }
            }
            message = socket.recv() => {
                if !matches!(message, Some(Ok(_))) {
                    return;
                }
            }
        }
    }
}

/// The limit: a loop of `send` over open sockets, without a runtime.
fn serve_sends(threads: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address").port());
    let sockets: Vec<Arc<Mutex<Vec<TcpStream>>>> = (0..threads).map(|_| Arc::default()).collect();
    let shares = sockets.clone();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let stream = stream.expect("a connection");
            let shares = shares.clone();
            std::thread::spawn(move || {
                shake(&stream);
                shares[number % threads].lock().expect("no panic").push(stream);
            });
        }
    });
    let mut senders = Vec::new();
    for share in sockets {
        let (sender, texts) = std::sync::mpsc::channel::<Arc<Vec<u8>>>();
        senders.push(sender);
        std::thread::spawn(move || {
            for frame in texts {
                for stream in share.lock().expect("no panic").iter() {
                    match (&*stream).write(&frame) {
                        Ok(written) => assert_eq!(written, frame.len(), "the kernel takes a frame at once"),
                        Err(why) => assert_eq!(why.kind(), ErrorKind::BrokenPipe, "{why}"),
                    }
                }
            }
        });
    }
    for text in changes() {
        let frame = Arc::new(frame(&text));
        senders.iter().for_each(|sender| sender.send(frame.clone()).expect("a thread"));
    }
}

/// Answers a handshake, whose key is always the same.
fn shake(mut stream: &TcpStream) {
    let mut request: Vec<u8> = Vec::new();
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut some = [0; 1024];
        let read = stream.read(&mut some).expect("a request");
        assert!(read > 0, "a whole request");
        request.extend(&some[..read]);
    }
    let accept = derive_accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: keybeat.v1\r\n\r\n"
    );
    stream.set_nodelay(true).expect("an option of TCP");
    stream.write_all(&[head.as_bytes(), &frame(SNAPSHOT)].concat()).expect("a client");
    stream.set_nonblocking(true).expect("a socket");
}

fn frame(text: &str) -> Vec<u8> {
    let length = text.len() as u16;
    let header = if length < 126 {
        vec![0x81, length as u8]
    } else {
        [&[0x81, 126][..], &length.to_be_bytes()].concat()
    };
    [&header, text.as_bytes()].concat()
}
