//! Names of models on the hub.

/// A name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HubName {
    /// `owner/name`.
    pub(super) repository: String,
    /// A branch, a tag or a commit.
    pub(super) revision: String,
    /// What stands after the colon: a GGUF file, or a part of its name (`Q4_K_M`).
    pub(super) file: Option<String>,
}

impl HubName {
    /// Takes `owner/name[@revision][:file]` apart; `None` for anything else.
    pub(super) fn parse(model: &str) -> Option<Self> {
        let (rest, file) = match model.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (model, None),
        };
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let (owner, name) = repository.split_once('/')?;
        let names = [owner, name].iter().all(|part| !part.contains('/') && is_safe_path(part));
        let known_form = names && is_safe_path(revision) && file.is_none_or(is_safe_path);
        known_form.then(|| Self {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

/// Whether `path` is relative, stays below where it begins, and can stand in an address and in a file system as it is.
/// Names of files come from the hub and become paths here.
pub(super) fn is_safe_path(path: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+=,".contains(&byte);
    path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.bytes().all(safe))
}

/// Bytes of the longest name that a hub may give to a file's contents or to a commit; either is a hash of 40 or 64 digits.
const MAX_FILE_NAME_BYTES: usize = 128;

/// Whether `name` can be one file's name as it is: what names a file's contents or a commit becomes one in the cache.
pub(super) fn is_file_name(name: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_FILE_NAME_BYTES).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(model: &str) -> Option<(String, String, Option<String>)> {
        HubName::parse(model).map(|name| (name.repository, name.revision, name.file))
    }

    #[test]
    fn hub_names_are_taken_apart_and_paths_are_none() {
        let inst = "rednote-hilab/dots.llm1.inst";
        let name =
            |revision: &str, file: Option<&str>| Some((inst.to_owned(), revision.to_owned(), file.map(str::to_owned)));
        assert_eq!(parsed(inst), name("main", None));
        assert_eq!(parsed(&format!("{inst}@refs/pr/1")), name("refs/pr/1", None));
        assert_eq!(parsed(&format!("{inst}:Q4/a.gguf")), name("main", Some("Q4/a.gguf")));
        assert_eq!(parsed(&format!("{inst}@v1:a.gguf")), name("v1", Some("a.gguf")));
        for path in [
            "dots",
            "/models/dots",
            "./dots/x",
            "../x",
            "a/b/c",
            "a/..",
            "a/b@../x",
            "a/b:",
            "a/b:../x.gguf",
            "C:\\x",
            "~/x",
            "",
        ] {
            assert_eq!(parsed(path), None, "{path}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_name_no_file() {
        for name in ["0123456789abcdef", "model.safetensors", "a-b_c", &"a".repeat(128)] {
            assert!(is_file_name(name), "{name}");
        }
        for name in ["", ".", "..", ".bashrc", "/etc/passwd", "a/b", "../x", "a\\b", "C:x", "a b", &"a".repeat(129)] {
            assert!(!is_file_name(name), "{name}");
        }
    }
}
