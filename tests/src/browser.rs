//! A real browser: headless chromium driven through chromedriver.
//!
//! A [`Browser`] owns the chromedriver process, one WebDriver session and a profile of its own; a [`Page`] is one of
//! its windows. Windows share nothing that the console keeps (that is `sessionStorage`), so two pages are two people.
//! Every look at a page that does not yet show what is awaited is repeated until [`PATIENCE`] ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use fantoccini::error::{CmdError, ErrorStatus};
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand, WindowHandle};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::deadline::{PATIENCE, eventually};
use crate::process::Process;

const CHROMEDRIVER: &str = "chromedriver";
const CHROMIUM: &str = "chromium";

/// Nothing that leaves the machine, nothing that outlives the test.
const FLAGS: [&str; 10] = [
    "--headless",
    "--window-size=1280,1000",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A cold chromium on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long chromedriver may take to end chromium before both are killed.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// A running browser. Ended when dropped.
#[derive(Debug)]
pub struct Browser {
    client: Client,
    /// WebDriver has one current window: whoever looks at a page holds this for the switch and the look.
    turn: Mutex<()>,
    // Owned for its end: chromium goes with it.
    _driver: Driver,
    // Dropped last: chromium writes into it until it ends.
    _profile: TempDir,
}

impl Browser {
    /// The program that is not installed, if a browser cannot be started here.
    pub fn missing() -> Option<&'static str> {
        [CHROMEDRIVER, CHROMIUM].into_iter().find(|program| path_of(program).is_none())
    }

    /// Starts chromedriver on a port of its own choice, and chromium.
    pub async fn start() -> Self {
        let profile = tempfile::tempdir().expect("a temporary directory for the profile");
        let driver = Driver::start().await;
        let mut arguments = FLAGS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let mut capabilities = Capabilities::new();
        capabilities.insert("browserName".to_owned(), json!("chrome"));
        capabilities.insert("goog:loggingPrefs".to_owned(), json!({"browser": "ALL"}));
        let binary = path_of(CHROMIUM).unwrap_or_else(|| panic!("{CHROMIUM} is not installed"));
        capabilities.insert("goog:chromeOptions".to_owned(), json!({"args": arguments, "binary": binary}));
        let connecting =
            async { ClientBuilder::new(HttpConnector::new()).capabilities(capabilities).connect(&driver.url()).await };
        let client = tokio::time::timeout(START_DEADLINE, connecting)
            .await
            .unwrap_or_else(|_| panic!("chromium did not start within {START_DEADLINE:?}"))
            .unwrap_or_else(|error| panic!("chromium did not start: {error}"));
        Self { client, turn: Mutex::new(()), _driver: driver, _profile: profile }
    }

    /// Opens `url` in a window of its own.
    pub async fn open(&self, url: &str) -> Page<'_> {
        let _turn = self.turn.lock().await;
        let window = self.client.new_window(false).await.expect("a new window").handle;
        self.client.switch_to_window(window.clone()).await.expect("the window just opened");
        self.client.goto(url).await.unwrap_or_else(|error| panic!("cannot open {url}: {error}"));
        Page { browser: self, window }
    }

    /// What the consoles of all pages said since the last call, warnings and errors only: uncaught exceptions,
    /// violations of the content security policy, failed requests.
    pub async fn complaints(&self) -> Vec<String> {
        let _turn = self.turn.lock().await;
        let entries = self.client.issue_cmd(ReadLog).await.expect("the console's log");
        let entries = entries.as_array().expect("a log is a list");
        entries
            .iter()
            .filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")))
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

/// A window of a [`Browser`]. Elements are named by CSS selectors.
#[derive(Debug)]
pub struct Page<'a> {
    browser: &'a Browser,
    window: WindowHandle,
}

impl Page<'_> {
    /// Clicks the first element that matches, as soon as it can be clicked.
    pub async fn click(&self, css: &str) {
        self.until(&format!("click on {css}"), async |client| {
            client.find(Locator::Css(css)).await?.click().await?;
            Ok(Some(()))
        })
        .await;
    }

    /// Replaces what is in a field.
    pub async fn fill(&self, css: &str, text: &str) {
        self.until(&format!("a field {css}"), async |client| {
            let field = client.find(Locator::Css(css)).await?;
            field.clear().await?;
            field.send_keys(text).await?;
            Ok(Some(()))
        })
        .await;
    }

    /// Waits until an element that matches shows a text that contains `text` in any case, and returns all of that text.
    pub async fn wait_for_text(&self, css: &str, text: &str) -> String {
        let wanted = text.to_lowercase();
        self.until(&format!("{text:?} in {css}"), async |client| {
            for element in client.find_all(Locator::Css(css)).await? {
                let shown = element.text().await?;
                if shown.to_lowercase().contains(&wanted) {
                    return Ok(Some(shown));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Waits until exactly `count` elements match.
    pub async fn wait_for_count(&self, css: &str, count: usize) {
        self.until(&format!("{count} times {css}"), async |client| {
            let found = client.find_all(Locator::Css(css)).await?.len();
            Ok((found == count).then_some(()))
        })
        .await;
    }

    /// How many elements match now.
    pub async fn count(&self, css: &str) -> usize {
        self.until(css, async |client| Ok(Some(client.find_all(Locator::Css(css)).await?.len()))).await
    }

    /// Runs a script and returns what it returns.
    pub async fn evaluate(&self, script: &str) -> Value {
        self.until(script, async |client| Ok(Some(client.execute(script, Vec::new()).await?))).await
    }

    /// Loads the page again.
    pub async fn reload(&self) {
        self.until("a reload", async |client| {
            client.refresh().await?;
            Ok(Some(()))
        })
        .await;
    }

    /// Looks at this page until `look` finds something. What the page does not have yet is no error.
    async fn until<T>(&self, what: &str, look: impl AsyncFn(&Client) -> Result<Option<T>, CmdError>) -> T {
        eventually(PATIENCE, &format!("{what} on {:?}", self.window), async || {
            let _turn = self.browser.turn.lock().await;
            let client = &self.browser.client;
            client.switch_to_window(self.window.clone()).await.expect("the window is open");
            match look(client).await {
                Ok(found) => found,
                Err(error) if is_not_yet(&error) => None,
                Err(error) => panic!("{what}: {error}"),
            }
        })
        .await
    }
}

/// The page is between two states: the element is not there, no longer there, or not yet to be touched.
fn is_not_yet(error: &CmdError) -> bool {
    let CmdError::Standard(error) = error else { return false };
    matches!(
        error.error,
        ErrorStatus::NoSuchElement
            | ErrorStatus::StaleElementReference
            | ErrorStatus::ElementNotInteractable
            | ErrorStatus::ElementClickIntercepted
            | ErrorStatus::InvalidElementState
    )
}

/// `POST …/se/log`: chromedriver's reading of the console, which is not part of the WebDriver standard.
#[derive(Debug)]
struct ReadLog;

impl WebDriverCompatibleCommand for ReadLog {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as FromStr>::Err> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _url: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({"type": "browser"}).to_string()))
    }
}

/// The chromedriver process. When dropped, it is told to end the browsers that it started, then killed.
#[derive(Debug)]
struct Driver {
    // Owned for its end, and for its log when a test fails.
    _process: Process,
    port: u16,
}

impl Driver {
    async fn start() -> Self {
        let process = Process::spawn(CHROMEDRIVER, Command::new(CHROMEDRIVER).arg("--port=0"));
        let port = eventually(START_DEADLINE, "chromedriver's port", || async {
            process.log().iter().find_map(|line| port_in(line))
        })
        .await;
        Self { _process: process, port }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `GET /shutdown`: chromedriver ends its browsers and itself, and closes the connection when it has.
    fn shut_down(&self) -> std::io::Result<()> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.set_read_timeout(Some(END_DEADLINE))?;
        write!(connection, "GET /shutdown HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n", self.port)?;
        connection.read_to_end(&mut Vec::new()).map(drop)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            eprintln!("chromedriver did not end by itself ({error}) and is killed");
        }
    }
}

/// `ChromeDriver was started successfully on port 12345.`
fn port_in(line: &str) -> Option<u16> {
    let (_, port) = line.split_once("started successfully on port ")?;
    port.trim_end_matches('.').parse().ok()
}

fn path_of(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_the_log() {
        assert_eq!(port_in("ChromeDriver was started successfully on port 40123."), Some(40123));
        assert_eq!(port_in("Starting ChromeDriver 156 on port 0"), None);
    }
}
