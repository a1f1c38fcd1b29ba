//! GGUF files of architecture `dots1`, whole or split.

mod container;
mod metadata;
mod split;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use self::{container::Container, metadata::Metadata};
use super::{Checkpoint, Format, Tensor, experts, files, json::shorten, names};
use crate::{Config, Error};

pub(crate) use split::SplitName;

/// Opens the model that `file` is, or is a part of. `path` is what the user gave.
pub(super) fn open(path: &Path, file: &Path) -> Result<Checkpoint, Error> {
    let files = part_paths(file)
        .into_iter()
        .map(|path| Ok((files::map(&path)?, path)))
        .collect::<Result<Vec<(Bytes, PathBuf)>, Error>>()?;
    let parts = files
        .iter()
        .map(|(bytes, path)| Ok(Part { bytes, path, container: container::parse(path, bytes)? }))
        .collect::<Result<Vec<Part<'_>>, Error>>()?;
    // The first part alone holds what describes the model.
    let metadata = Metadata::new(parts[0].path, &parts[0].container.metadata);
    let config = metadata.config()?;
    check_parts(&parts)?;

    let mut tensors = HashMap::new();
    for part in &parts {
        insert_tensors(&mut tensors, &config, part)?;
    }
    names::verify(file, &config, &tensors)?;
    let tokenizer = metadata.tokenizer(config.vocab_size)?;
    Ok(Checkpoint {
        path: path.to_owned(),
        format: Format::Gguf,
        generation: metadata.generation(config.vocab_size, tokenizer.as_ref())?,
        chat_template: metadata.optional_str("tokenizer.chat_template")?.map(str::to_owned),
        tokenizer,
        config,
        tensors,
    })
}

/// The first file of the one GGUF model in `folder`, or `None` where there is none.
pub(super) fn find(folder: &Path) -> Result<Option<PathBuf>, Error> {
    let io = |source| Error::io(folder, source);
    // Parts of one model count once.
    let mut models: BTreeMap<String, PathBuf> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".gguf")) else {
            continue;
        };
        let first = SplitName::parse(name).map_or_else(|| name.to_owned(), |split| split.part(1));
        models.insert(first, path);
    }
    if models.len() > 1 {
        let names: Vec<&str> = models.keys().map(String::as_str).collect();
        let found = format!("{}: give the path of one", names.join(", "));
        return Err(Error::invalid(folder, "folder", "one GGUF model", found));
    }
    Ok(models.into_values().next())
}

/// All parts of the model that `file` belongs to, in order.
fn part_paths(file: &Path) -> Vec<PathBuf> {
    match file.file_name().and_then(|name| name.to_str()).and_then(SplitName::parse) {
        Some(split) => split.parts().map(|name| file.with_file_name(name)).collect(),
        None => vec![file.to_owned()],
    }
}

/// One file of a model.
struct Part<'a> {
    path: &'a Path,
    bytes: &'a Bytes,
    container: Container<'a>,
}

/// Holds the parts to what they say of themselves, so that no shuffled or foreign part passes.
fn check_parts(parts: &[Part<'_>]) -> Result<(), Error> {
    for (index, part) in parts.iter().enumerate() {
        let metadata = Metadata::new(part.path, &part.container.metadata);
        let (count, number) = (metadata.optional_u64("split.count")?, metadata.optional_u64("split.no")?);
        if parts.len() == 1 && count.is_none() {
            return Ok(());
        }
        if count != Some(parts.len() as u64) {
            let expected = format!("{}, as the file's name has it", parts.len());
            return Err(metadata.wrong("split.count", &expected));
        }
        if number != Some(index as u64) {
            return Err(metadata.wrong("split.no", &format!("{index}, counted from 0")));
        }
    }
    let tensors: usize = parts.iter().map(|part| part.container.tensors.len()).sum();
    let metadata = Metadata::new(parts[0].path, &parts[0].container.metadata);
    match metadata.optional_u64("split.tensors.count")? {
        Some(count) if count != tensors as u64 => {
            Err(metadata.wrong("split.tensors.count", &format!("{tensors}, as many as the parts hold")))
        }
        _ => Ok(()),
    }
}

fn insert_tensors(tensors: &mut HashMap<String, Tensor>, config: &Config, part: &Part<'_>) -> Result<(), Error> {
    let file: Arc<Path> = part.path.into();
    for described in &part.container.tensors {
        let Some(name) = names::from_gguf(described.name) else {
            return Err(Error::invalid(part.path, shorten(described.name), "a tensor of a dots.llm1", "another"));
        };
        let tensor = Tensor {
            kind: described.kind,
            shape: described.shape.clone(),
            data: part.bytes.slice(described.range.clone()),
            row_scales: Arc::default(),
            file: file.clone(),
        };
        experts::insert(tensors, config, &name, tensor)?;
    }
    Ok(())
}
