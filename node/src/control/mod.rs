//! The control socket: how the command line speaks to the running node on the same machine.
//!
//! HTTP/1.1 over a Unix socket of mode 0600 in the node's directory; who may open the socket is the node's owner.
//! Each call is a POST with JSON and answers JSON lines: any number of `{"progress": ...}`, then one
//! `{"done": ...}` or `{"error": "what to do"}`. Values that the program itself shows are in [`wire`].

pub mod client;
pub mod server;
pub mod wire;
