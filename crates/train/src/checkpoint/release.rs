//! The small files that make weights a published checkpoint.

use std::{fs, path::Path};

use dots_model::{
    Config,
    checkpoint::{
        TokenizerSource,
        published::{COMPANIONS, config_json},
    },
    template,
    tokenizer::Tokenizer,
};
use serde_json::{Map, Value, json};

use super::{CheckpointError, file};
use crate::tokenizer::{END_OF_RESPONSE, END_OF_TEXT};

/// Largest file that is copied: the published tokenizer has 7 MB.
const MAX_TEXT_BYTES: u64 = 1 << 28;

const TEMPLATE: &str = "chat_template.jinja";
const GENERATION: &str = "generation_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// What a release holds beside its weights and `config.json`: a tokenizer's files, read once, so that all checkpoints of a run have the
/// same ones whatever becomes of the folder.
#[derive(Debug, Clone)]
pub struct Companions {
    /// Names and bytes.
    files: Vec<(&'static str, Vec<u8>)>,
    /// Ids that end a text or an answer; at least one.
    eos_token_ids: Vec<u32>,
}

/// Writes `config.json`, `generation_config.json` and the tokenizer's files into `folder`, and notes each in `files`.
pub(super) fn write(
    folder: &Path,
    config: &Config,
    companions: &Companions,
    files: &mut Map<String, Value>,
) -> Result<(), CheckpointError> {
    let config_json = format!("{:#}\n", config_json(config, &companions.eos_token_ids, "bfloat16"));
    let tokenizers = companions.files.iter().map(|(name, bytes)| (*name, bytes.as_slice()));
    for (name, bytes) in tokenizers.chain([("config.json", config_json.as_bytes())]) {
        files.insert(name.to_owned(), file::write(&folder.join(name), bytes)?);
    }
    Ok(())
}

impl Companions {
    /// Those of the tokenizer in `folder`. Where they do not say what ends an answer, the tokens that they name do; where there is no template and
    /// the tokens are dots.llm1's, so is the template. A tokenizer without any end of an answer is refused: whoever loads a release must
    /// know where one ends.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let mut files = Vec::new();
        for name in COMPANIONS {
            let path = folder.join(name);
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.len() > MAX_TEXT_BYTES {
                let expected = format!("at most {MAX_TEXT_BYTES} bytes");
                return Err(CheckpointError::wrong(path, "length", expected, metadata.len().to_string()));
            }
            files.push((name, fs::read(&path).map_err(CheckpointError::io(&path))?));
        }
        let json = |name: &str| match files.iter().find(|(other, _)| *other == name) {
            None => Ok(Value::Null),
            Some((_, bytes)) => serde_json::from_slice::<Value>(bytes)
                .map_err(|error| CheckpointError::wrong(folder.join(name), "text", "JSON", error.to_string())),
        };
        let (tokenizer_config, mut generation) = (json(TOKENIZER_CONFIG)?, json(GENERATION)?);
        let unusable = |error: dots_model::Error| {
            CheckpointError::wrong(folder, "tokenizer", "one that can be used", error.to_string())
        };
        let has_template =
            !tokenizer_config["chat_template"].is_null() || files.iter().any(|(name, _)| *name == TEMPLATE);
        let mut eos_token_ids = ids(&generation["eos_token_id"]);
        if has_template && !eos_token_ids.is_empty() {
            return Ok(Self { files, eos_token_ids });
        }

        let source = TokenizerSource::of_folder(folder).map_err(unusable)?;
        let tokenizer = Tokenizer::new(&source).map_err(unusable)?;
        if !has_template && tokenizer.token_id(END_OF_RESPONSE).is_some_and(|id| tokenizer.is_special(id)) {
            files.push((TEMPLATE, template::PUBLISHED.as_bytes().to_vec()));
        }
        if eos_token_ids.is_empty() {
            let named = tokenizer_config["eos_token"].as_str().or(tokenizer_config["eos_token"]["content"].as_str());
            let of_dots = [END_OF_TEXT, END_OF_RESPONSE];
            eos_token_ids = (named.into_iter().chain(of_dots)).filter_map(|token| tokenizer.token_id(token)).collect();
            eos_token_ids.sort_unstable();
            eos_token_ids.dedup();
            if eos_token_ids.is_empty() {
                let expected = format!("ids that end an answer, or {END_OF_RESPONSE} or an eos_token in the tokenizer");
                return Err(CheckpointError::wrong(folder.join(GENERATION), "eos_token_id", expected, "none"));
            }
            if !generation.is_object() {
                generation = json!({});
            }
            generation["eos_token_id"] = json!(eos_token_ids);
            files.retain(|(name, _)| *name != GENERATION);
            files.push((GENERATION, format!("{generation:#}\n").into_bytes()));
        }
        Ok(Self { files, eos_token_ids })
    }
}

/// No id, one, or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let one = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array().map_or_else(|| one(value).into_iter().collect(), |ids| ids.iter().filter_map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the golden's tokenizer and these files instead of its others.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/goldens/hf/tokenizer.json");
        fs::copy(golden, folder.path().join("tokenizer.json")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_release_says_where_an_answer_ends_and_how_a_chat_is_written() {
        // Of tokenizer.json alone, everything follows.
        for files in [&[][..], &[(GENERATION, "{\"eos_token_id\": null}")], &[(TOKENIZER_CONFIG, "{}")]] {
            let found = Companions::read(folder(files).path()).unwrap();
            let text =
                |name| found.files.iter().filter(|(other, _)| *other == name).map(|(_, text)| text).collect::<Vec<_>>();
            assert_eq!(found.eos_token_ids, [500, 506]);
            assert_eq!(text(TEMPLATE), [template::PUBLISHED.as_bytes()]);
            let [generation] = text(GENERATION)[..] else { panic!("one of it") };
            assert_eq!(serde_json::from_slice::<Value>(generation).unwrap()["eos_token_id"], json!([500, 506]));
        }
        // What the folder says stays.
        let said = folder(&[
            (GENERATION, "{\"eos_token_id\": 3, \"top_p\": 0.5}"),
            (TOKENIZER_CONFIG, "{\"chat_template\": \"x\"}"),
        ]);
        let found = Companions::read(said.path()).unwrap();
        assert_eq!(found.eos_token_ids, [3]);
        let names: Vec<_> = found.files.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["tokenizer.json", TOKENIZER_CONFIG, GENERATION]);
        assert!(found.files[2].1.ends_with(b"0.5}"));
    }

    #[test]
    fn a_tokenizer_without_an_end_is_refused() {
        let folder = folder(&[]);
        let path = folder.path().join("tokenizer.json");
        let text = fs::read_to_string(&path).unwrap().replace("<|endof", "<|out_of");
        fs::write(&path, text).unwrap();
        let error = Companions::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("generation_config.json: eos_token_id: expected ids that end an answer"), "{error}");
    }
}
