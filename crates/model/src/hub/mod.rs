//! Model names to local files: a path, or a name on the hub.
//!
//! A name is taken apart (`name`), the few files that a model needs are chosen (`choice`), and each comes from one commit, out
//! of the cache (`cached`) or from the hub (`remote`). The cache is the one that `huggingface_hub` for Python reads and writes
//! (`layout`). The hub is a stranger: `client` says who sees the token and how long an answer may take, `wanted` what of an
//! answer is believed, `part` how bytes become a file.

mod cached;
mod choice;
mod client;
mod failure;
mod layout;
mod name;
mod part;
mod remote;
mod wanted;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use self::{cached::Cached, choice::Choice, name::HubName, remote::Remote};
use crate::{Error, checkpoint::shard_names};

/// Watches a download.
pub trait Progress: Send {
    /// The `part_bytes` of a file that an earlier run left are read before the rest is fetched, to be checked with it;
    /// `advance` and `finish` tell of these first.
    fn check(&mut self, file: &str, part_bytes: u64);
    /// A file of `total_bytes` begins, `done_bytes` of it there already; told again where it must begin again.
    fn start(&mut self, file: &str, total_bytes: u64, done_bytes: u64);
    /// More bytes have arrived.
    fn advance(&mut self, bytes: u64);
    /// The file is complete.
    fn finish(&mut self);
}

/// The local folder or file of `model`: an existing path as it is; otherwise a hub name (`owner/name`,
/// `owner/name@revision`, `owner/name:file.gguf`), fetched into the usual cache where it is not there yet.
pub fn resolve(model: &str, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
    Hub::from_env().resolve(model, progress)
}

/// Silence after which a connection counts as broken.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Where models come from and where they are kept.
pub struct Hub {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The folder of `models--owner--name` folders.
    pub cache: PathBuf,
    /// Sent with each request to the hub itself, and to no other scheme, host or port that it redirects to.
    pub token: Option<String>,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// Silence, without a byte, after which a connection counts as broken.
    pub read_timeout: Duration,
}

impl Hub {
    /// As `huggingface_hub` for Python does it: `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN` or the file that
    /// `hf auth login` writes, `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        let var = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let home = var("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let user_cache = var("XDG_CACHE_HOME").map(PathBuf::from);
            let user_cache = user_cache.unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".cache"));
            user_cache.join("huggingface")
        });
        let token_path = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let token = var("HF_TOKEN").or_else(|| std::fs::read_to_string(token_path).ok());
        let offline = var("HF_HUB_OFFLINE").map(|value| value.trim().to_lowercase());
        Self {
            endpoint: var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            cache: var("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: offline.is_some_and(|value| matches!(value.as_str(), "1" | "true" | "yes" | "on")),
            read_timeout: READ_TIMEOUT,
        }
    }

    /// [`resolve`] with these settings.
    pub fn resolve(&self, model: &str, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
        if Path::new(model).exists() {
            return Ok(model.into());
        }
        let failed = |reason: String| Error::Hub { name: model.to_owned(), reason };
        let Some(name) = HubName::parse(model) else {
            return Err(failed(
                "no such file or folder, and no hub name either: give a folder of safetensors, a .gguf file, owner/name, \
                 owner/name@revision or owner/name:file.gguf"
                    .to_owned(),
            ));
        };
        let mut cached = Cached::new(&self.cache, &name);
        if self.offline {
            let kept = cached.as_mut().map_err(|reason| reason.clone()).and_then(|cached| gather(cached, &name));
            return kept.map_err(|reason| failed(format!("{reason}; HF_HUB_OFFLINE is set, so nothing is fetched")));
        }
        match Remote::connect(self, &name, progress) {
            Ok(mut remote) => {
                let path = gather(&mut remote, &name).map_err(failed)?;
                remote.finish().map_err(failed)?;
                Ok(path)
            }
            // Whoever has the model can use it while the hub is out of reach.
            Err(reason) => match cached.and_then(|mut cached| gather(&mut cached, &name)) {
                Ok(path) => {
                    tracing::warn!("{model}: {reason}; taking what the cache holds");
                    Ok(path)
                }
                Err(_) => Err(failed(reason)),
            },
        }
    }
}

/// A repository at one commit, wherever its files are. Errors are reasons for the user.
trait Source {
    /// Paths of all files within the repository.
    fn files(&self) -> &[String];
    /// The local path of one of them.
    fn get(&mut self, file: &str) -> Result<PathBuf, String>;
}

/// Gets what the model needs, small files first, and returns what [`crate::Checkpoint::open`] opens.
fn gather(source: &mut dyn Source, name: &HubName) -> Result<PathBuf, String> {
    match choice::choose(source.files(), name)? {
        Choice::Gguf(parts) => {
            let mut paths = parts.iter().map(|part| source.get(part)).collect::<Result<Vec<PathBuf>, String>>()?;
            Ok(paths.swap_remove(0))
        }
        Choice::Folder { small_files, single, index } => {
            let mut config = PathBuf::new();
            for file in &small_files {
                let path = source.get(file)?;
                if file == "config.json" {
                    config = path;
                }
            }
            if let Some(index) = index {
                let shards = shard_names(&source.get(&index)?).map_err(|error| error.to_string())?;
                for shard in shards {
                    source.get(&shard)?;
                }
            } else if let Some(single) = single {
                source.get(&single)?;
            }
            Ok(config.parent().map(Path::to_owned).unwrap_or_default())
        }
    }
}
