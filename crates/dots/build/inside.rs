//! The model that goes into the program: the folder that `DOTS_MODEL_INSIDE` names, or `models/nano` of the repository. Where
//! neither has weights, the program is built without one.

use std::{env, fmt::Write, fs, path::PathBuf};

/// What of a folder goes in, beside its safetensors.
const COMPANIONS: [&str; 6] = [
    "config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// Writes `OUT_DIR/inside.rs`, the files as a list, and sets `cfg(model_inside)` where there are any.
pub fn take_in() {
    println!("cargo::rerun-if-env-changed=DOTS_MODEL_INSIDE");
    let named = env::var_os("DOTS_MODEL_INSIDE").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let folder = named.clone().unwrap_or_else(|| manifest.join("../../models/nano"));
    let mut names: Vec<String> = Vec::new();
    if let Ok(entries) = fs::read_dir(&folder) {
        // Of a folder that is not there, any change would be seen as one in every build.
        println!("cargo::rerun-if-changed={}", folder.display());
        names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| name.ends_with(".safetensors") || COMPANIONS.contains(&name.as_str()));
        names.sort();
    }
    if !names.iter().any(|name| name.ends_with(".safetensors")) {
        assert!(
            named.is_none(),
            "DOTS_MODEL_INSIDE: expected a folder with safetensors, found none in {}",
            folder.display()
        );
        names.clear();
    }
    // Tests ask whether there is one.
    println!("cargo::rustc-check-cfg=cfg(model_inside)");
    if !names.is_empty() {
        println!("cargo::rustc-cfg=model_inside");
    }
    let folder = fs::canonicalize(&folder).unwrap_or(folder);
    let (mut statics, mut files) = (String::new(), String::new());
    for (number, name) in names.iter().enumerate() {
        let path = folder.join(name);
        writeln!(statics, "static FILE_{number}: &Aligned<[u8]> = &Aligned(*include_bytes!({path:?}));")
            .expect("a string takes it");
        writeln!(files, "    ({name:?}, &FILE_{number}.0),").expect("a string takes it");
    }
    let list = "/// The files of the model inside; none where there is none.\npub static FILES: &[dots_model::checkpoint::File]";
    let source = format!("{statics}\n{list} = &[\n{files}];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("inside.rs"), source).expect("OUT_DIR can be written to");
}
