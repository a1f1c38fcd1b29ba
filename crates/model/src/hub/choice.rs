//! Which files of a repository a model needs.

use std::collections::{BTreeMap, HashSet};

use super::name::HubName;
use crate::checkpoint::SplitName;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const CONFIG: &str = "config.json";

/// Small files that a model has, or has not.
const OPTIONAL: [&str; 4] =
    ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// What to get.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// A folder of safetensors: one file, or those that the index names.
    Folder { small_files: Vec<String>, single: Option<String>, index: Option<String> },
    /// One GGUF file or all its parts in order.
    Gguf(Vec<String>),
}

/// Chooses among `files`. A repository that has both takes the safetensors; a file may be asked for by name.
pub(super) fn choose(files: &[String], name: &HubName) -> Result<Choice, String> {
    let there: HashSet<&str> = files.iter().map(String::as_str).collect();
    let has = |file: &str| there.contains(file);
    if name.file.is_none() && has(CONFIG) && (has(INDEX) || has(SINGLE)) {
        let small_files = std::iter::once(CONFIG).chain(OPTIONAL.into_iter().filter(|file| has(file)));
        return Ok(Choice::Folder {
            small_files: small_files.map(str::to_owned).collect(),
            single: (!has(INDEX)).then(|| SINGLE.to_owned()),
            index: has(INDEX).then(|| INDEX.to_owned()),
        });
    }
    // Models by their first file. Only the wanted one's parts are spelt out: a name can claim 99,999 of them.
    let models: BTreeMap<String, Option<SplitName>> =
        files.iter().filter(|file| file.ends_with(".gguf")).map(|file| model_of(file)).collect();
    let wanted: Vec<&String> = match &name.file {
        None => models.keys().collect(),
        Some(file) if has(file) => {
            models.get_key_value(&model_of(file).0).into_iter().map(|(first, _)| first).collect()
        }
        Some(part) => {
            let part = part.to_lowercase();
            models.keys().filter(|first| first.to_lowercase().contains(&part)).collect()
        }
    };
    match wanted[..] {
        [first] => parts(first, models[first].as_ref(), &there).map(Choice::Gguf),
        [] if models.is_empty() => Err(format!("neither {CONFIG} with {SINGLE} or {INDEX}, nor a GGUF file is there")),
        _ => {
            let listed: Vec<String> = models.keys().map(|first| format!("{}:{first}", name.repository)).collect();
            let problem = match &name.file {
                Some(file) if wanted.is_empty() => format!("there is no {file}"),
                Some(file) => format!("{file} may mean several models"),
                None => "it holds several models".to_owned(),
            };
            Err(format!("{problem}; give one of\n  {}", listed.join("\n  ")))
        }
    }
}

/// The first file of the model that `file` is a part of, and how it is split, if it is.
fn model_of(file: &str) -> (String, Option<SplitName>) {
    match SplitName::parse(file) {
        Some(split) => (split.part(1), Some(split)),
        None => (file.to_owned(), None),
    }
}

/// All files of the model that begins with `first`, in order.
fn parts(first: &str, split: Option<&SplitName>, there: &HashSet<&str>) -> Result<Vec<String>, String> {
    let Some(split) = split else { return Ok(vec![first.to_owned()]) };
    if split.count as usize > there.len() {
        let (files, count) = (there.len(), split.count);
        return Err(format!(
            "{first}: number of parts: expected at most {files}, as many files as there are, found {count}; ask its owner \
             for the others"
        ));
    }
    let parts: Vec<String> = split.parts().collect();
    match parts.iter().find(|part| !there.contains(part.as_str())) {
        Some(missing) => Err(format!("{missing} is missing among the parts of its model")),
        None => Ok(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], model: &str) -> Result<Choice, String> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        choose(&files, &HubName::parse(model).unwrap())
    }

    #[test]
    fn a_folder_takes_what_it_needs_and_no_more() {
        let files = [
            "README.md",
            "config.json",
            "tokenizer.json",
            INDEX,
            "model-00001-of-00001.safetensors",
            "pytorch_model.bin",
        ];
        let expected = Choice::Folder {
            small_files: vec!["config.json".to_owned(), "tokenizer.json".to_owned()],
            single: None,
            index: Some(INDEX.to_owned()),
        };
        assert_eq!(chosen(&files, "o/n"), Ok(expected));
    }

    #[test]
    fn a_gguf_comes_with_all_its_parts() {
        let files = ["config.json", "q/a-00002-of-00002.gguf", "q/a-00001-of-00002.gguf"];
        let parts = Choice::Gguf(vec!["q/a-00001-of-00002.gguf".to_owned(), "q/a-00002-of-00002.gguf".to_owned()]);
        assert_eq!(chosen(&files, "o/n"), Ok(parts));
        let reason = chosen(&files[..2], "o/n:q/a-00002-of-00002.gguf").unwrap_err();
        assert_eq!(reason, "q/a-00001-of-00002.gguf is missing among the parts of its model");
    }

    #[test]
    fn of_several_ggufs_one_must_be_named() {
        let files = ["a-Q4_K_M.gguf", "a-Q8_0.gguf"];
        let reason = chosen(&files, "o/n").unwrap_err();
        assert_eq!(reason, "it holds several models; give one of\n  o/n:a-Q4_K_M.gguf\n  o/n:a-Q8_0.gguf");
        for file in ["a-Q8_0.gguf", "q8_0"] {
            assert_eq!(chosen(&files, &format!("o/n:{file}")), Ok(Choice::Gguf(vec!["a-Q8_0.gguf".to_owned()])));
        }
        assert!(chosen(&files, "o/n:Q6_K").unwrap_err().starts_with("there is no Q6_K; give one of\n"));
        assert!(chosen(&["README.md"], "o/n").unwrap_err().starts_with("neither config.json with"));
    }
}
