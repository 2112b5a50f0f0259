//! HTTP/1.1 as a scraper, a probe or a person with curl speaks it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::within;

/// What came back.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

/// Asks for a page on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Page {
    get_accepting(address, path, "*/*").await
}

/// Likewise, for these media types.
pub async fn get_accepting(address: SocketAddr, path: &str, accept: &str) -> Page {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    let answer = within(path, async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("headers, then a body");
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3))
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("not an answer of HTTP/1.1: {head}"));
    let header = |wanted: &str| {
        let headers = head.split("\r\n").filter_map(|line| line.split_once(": "));
        let mut found = headers.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.next().map(|(_, value)| value.to_owned())
    };
    assert_eq!(
        header("content-length"),
        Some(body.len().to_string()),
        "the whole page came"
    );
    Page {
        status,
        content_type: header("content-type").unwrap_or_default(),
        body: body.to_owned(),
    }
}
