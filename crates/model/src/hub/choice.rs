//! Which files of a repository a model needs.

use std::collections::BTreeSet;

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
    let has = |file: &str| files.iter().any(|other| other == file);
    if name.file.is_none() && has(CONFIG) && (has(INDEX) || has(SINGLE)) {
        let small_files = std::iter::once(CONFIG).chain(OPTIONAL.into_iter().filter(|file| has(file)));
        return Ok(Choice::Folder {
            small_files: small_files.map(str::to_owned).collect(),
            single: (!has(INDEX)).then(|| SINGLE.to_owned()),
            index: has(INDEX).then(|| INDEX.to_owned()),
        });
    }
    let parts = |file: &str| match SplitName::parse(file) {
        Some(split) => split.parts().collect(),
        None => vec![file.to_owned()],
    };
    let models: BTreeSet<Vec<String>> =
        files.iter().filter(|file| file.ends_with(".gguf")).map(|file| parts(file)).collect();
    let wanted: Vec<&Vec<String>> = match &name.file {
        None => models.iter().collect(),
        Some(file) if has(file) => models.iter().filter(|parts| parts.contains(file)).collect(),
        Some(part) => {
            let part = part.to_lowercase();
            models.iter().filter(|parts| parts[0].to_lowercase().contains(&part)).collect()
        }
    };
    match wanted[..] {
        [parts] => match parts.iter().find(|part| !has(part)) {
            None => Ok(Choice::Gguf(parts.clone())),
            Some(missing) => Err(format!("{missing} is missing among the parts of its model")),
        },
        [] if models.is_empty() => Err(format!("neither {CONFIG} with {SINGLE} or {INDEX}, nor a GGUF file is there")),
        _ => {
            let listed: Vec<String> = models.iter().map(|parts| format!("{}:{}", name.repository, parts[0])).collect();
            let problem = match &name.file {
                Some(file) if wanted.is_empty() => format!("there is no {file}"),
                Some(file) => format!("{file} may mean several models"),
                None => "it holds several models".to_owned(),
            };
            Err(format!("{problem}; give one of\n  {}", listed.join("\n  ")))
        }
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
