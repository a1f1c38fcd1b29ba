//! The model that the program brings in itself, `models/nano`, where it was built with one.

use std::path::Path;

use dots_model::Checkpoint;

/// Bytes that begin where those of a mapped file would.
#[repr(C, align(4096))]
#[allow(dead_code, reason = "a program without a model has none")]
struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/inside.rs"));

/// What it is called where a model is named.
pub const NAME: &str = "nano";

/// What stands for its folder in messages.
const PLACE: &str = "nano (inside dots)";

/// Whether this program has one.
pub fn is_there() -> bool {
    !FILES.is_empty()
}

/// Whether `model`, as it was typed, is the one inside: where nothing is named, and by its name where no file has that.
pub fn is_meant(model: Option<&str>) -> bool {
    is_there() && model.is_none_or(|model| model == NAME && !Path::new(NAME).exists())
}

/// Opens it: the tensors are the program's own bytes.
pub fn open() -> anyhow::Result<Checkpoint> {
    Ok(Checkpoint::inside(Path::new(PLACE), FILES)?)
}

/// Whether `checkpoint` is the one inside.
pub fn is(checkpoint: &Checkpoint) -> bool {
    is_there() && checkpoint.path == Path::new(PLACE)
}

/// Bytes that it takes of the program.
pub fn bytes() -> u64 {
    FILES.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

/// What a chat with it begins with, in the language of the user's locale.
pub fn greeting() -> &'static str {
    let set = ["LC_ALL", "LC_MESSAGES", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    greeting_in(&set.unwrap_or_default())
}

fn greeting_in(locale: &str) -> &'static str {
    match locale.split(['_', '-', '.', '@']).next() {
        Some("zh") => {
            "这是 dots 自带的小模型：会说 dots 的用法、简单的加减法、一些中英韩词语和几句闲聊，别的不知道。真正的模型：dots chat rednote-hilab/dots.llm1.inst"
        }
        Some("ko") => {
            "dots에 들어 있는 작은 모델입니다. dots 사용법, 간단한 덧셈과 뺄셈, 한국어·영어·중국어 낱말, 짧은 인사말만 압니다. 진짜 모델: dots chat rednote-hilab/dots.llm1.inst"
        }
        _ => {
            "This is the small model inside dots: it knows how to use dots, small sums, some words in English, Chinese and Korean, a little \
             small talk, and nothing else. A real one: dots chat rednote-hilab/dots.llm1.inst"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_is_in_the_users_language_and_names_a_real_model() {
        assert!(greeting_in("zh_CN.UTF-8").contains("小模型"));
        assert!(greeting_in("ko_KR.UTF-8").contains("작은 모델"));
        for locale in ["", "C", "POSIX", "en_GB.UTF-8", "kok_IN", "zha"] {
            assert!(greeting_in(locale).contains("small model inside"), "{locale}");
        }
        for locale in ["en", "zh", "ko"] {
            let greeting = greeting_in(locale);
            assert!(
                greeting.contains("dots chat rednote-hilab/dots.llm1.inst") && !greeting.contains('\n'),
                "{greeting}"
            );
        }
    }

    #[test]
    fn what_was_built_in_opens() {
        if is_there() {
            let checkpoint = open().unwrap();
            assert!(checkpoint.tokenizer.is_some() && is(&checkpoint));
            assert!(
                checkpoint.tensors().all(|(_, tensor)| FILES
                    .iter()
                    .any(|(_, file)| file.as_ptr_range().contains(&tensor.data.as_ptr())))
            );
        }
        assert_eq!(is_meant(None), is_there());
        assert!(!is_meant(Some("owner/name")));
    }
}
