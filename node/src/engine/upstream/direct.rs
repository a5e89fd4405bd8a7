//! One OpenAI-compatible server asked for one answer at a time: nobody watches over it, nothing is offered of it.

use super::{
    EngineError, EngineEvent, Usage,
    answer::Job,
    connection::{Connection, Names, SettingError},
    prompt_tokens,
    request::Request,
};
use aitbc_protocol::job::JobSpec;
use std::path::Path;
use tokio::sync::mpsc;

/// What the settings of the cloud are called.
const CLOUD: Names = Names { url: "client.cloud.url", token: "client.cloud.key_file" };

/// Such a server.
#[derive(Debug)]
pub(crate) struct Direct {
    connection: Connection,
}

impl Direct {
    /// Checks the settings and reads the key from a file that only its owner can read. Nothing is sent. Blocks.
    pub(crate) fn open(url: &str, key_file: Option<&Path>) -> Result<Self, SettingError> {
        let connection = Connection::open(&CLOUD, url, key_file)?;
        if connection.tells_its_token() {
            let reason = "a key would go there without TLS: use https, or leave key_file out".to_owned();
            return Err(SettingError::Url { setting: CLOUD.url, url: connection.url().to_owned(), reason });
        }
        Ok(Self { connection })
    }

    /// Host and port.
    pub(crate) fn host(&self) -> String {
        self.connection.host()
    }

    /// Tokens that the prompt of `spec` has at most, for English and code.
    pub(crate) fn prompt_tokens(spec: &JobSpec) -> u32 {
        prompt_tokens(&spec.input)
    }

    /// Has the server answer `spec` with what it calls `model`, and tells the answer on `events` as it comes. Returns
    /// what the server says that it took. Dropping the future closes the connection, which servers take as a
    /// cancellation. Errors name the server and the status and nothing of what it said, which may quote the prompt.
    pub(crate) async fn ask(
        &self,
        spec: &JobSpec,
        model: &str,
        events: mpsc::Sender<EngineEvent>,
    ) -> Result<Usage, EngineError> {
        let request = Request::of(spec, model.to_owned())?;
        // All is allowed from the start: nobody is paid by the window here.
        let (_, grants) = mpsc::channel(1);
        let max_tokens = spec.max_tokens;
        let job = Job { events, grants, credit: max_tokens, max_tokens, tokens: 0, text_bytes: 0, paused: false };
        Ok(job.run(&self.connection, &request).await?.usage)
    }
}
