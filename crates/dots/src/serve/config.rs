//! Where the settings of `dots serve` come from: a flag, else its variable, else the file of `--config`, else the default.
//!
//! The variables are clap's own. What the file says is put before the flags that were typed, as if it had been typed too, for
//! those that neither a flag nor a variable sets.

use std::{
    collections::HashSet,
    ffi::OsString,
    fmt::Write,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, builder::BoolishValueParser, error::ErrorKind, parser::ValueSource};
use toml::de::{DeTable, DeValue};

/// The command whose settings these are.
const SERVE: &str = "serve";
/// Largest file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Flags that mean nothing in a file.
const NOT_IN_A_FILE: [&str; 2] = ["config", "print-config"];
/// What no output shows.
const SECRET: &str = "api-key";
/// How alike, from 0 to 1, a known key must be to be suggested.
const ALIKE: f64 = 0.7;

/// The variable of a flag: `DOTS_` and its name.
pub fn variable(flag: &str) -> String {
    format!("DOTS_{}", flag.replace('-', "_").to_uppercase())
}

/// `command` where every flag of `serve` has its variable.
pub fn with_variables(command: Command) -> Command {
    command.mut_subcommand(SERVE, |serve| serve.mut_args(with_variable))
}

fn with_variable(arg: Arg) -> Arg {
    let Some(flag) = arg.get_long().filter(|&long| long != "help") else { return arg };
    let name = variable(flag);
    let arg = match arg.get_action() {
        // `1` and `yes` are as good as `true`.
        ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
        _ => arg,
    };
    // Compose files set variables to nothing where they mean to leave them out.
    if std::env::var_os(&name).is_some_and(|value| value.is_empty()) {
        return arg;
    }
    // The help says once how they are called.
    arg.env(name).hide_env(true).hide_env_values(true)
}

/// The arguments with those of the file put in, and the ids of the latter.
pub struct Layered {
    pub args: Vec<OsString>,
    from_file: HashSet<String>,
}

/// Reads the file that `args` name, if they do. `command` has its variables, `plain` has none.
pub fn with_file(command: Command, plain: &Command, args: Vec<OsString>) -> anyhow::Result<Layered> {
    let mut layered = Layered { args, from_file: HashSet::new() };
    let matches = match command.clone().try_get_matches_from(&layered.args) {
        Ok(matches) => matches,
        // The file may have what a flag goes with; what is missing then is told in the end.
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {
            command.ignore_errors(true).get_matches_from(&layered.args)
        }
        Err(error) => error.exit(),
    };
    let Some(serve) = matches.subcommand_matches(SERVE) else { return Ok(layered) };
    let Some(path) = serve.get_one::<PathBuf>("config") else { return Ok(layered) };
    let mut inserted = Vec::new();
    for setting in read(path, plain)? {
        let is_given =
            |id: &str| matches!(serve.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable));
        // MODEL has two forms.
        if is_given(&setting.id) || (setting.flag == "model" && is_given("model")) {
            continue;
        }
        inserted.extend(setting.args.into_iter().map(OsString::from));
        layered.from_file.insert(setting.id);
    }
    // After `dots serve`, before all that was typed.
    layered.args.splice(2..2, inserted);
    Ok(layered)
}

/// One key of the file.
struct Setting {
    id: String,
    flag: String,
    /// `--flag=value`, as often as it has values.
    args: Vec<String>,
}

fn read(path: &Path, plain: &Command) -> anyhow::Result<Vec<Setting>> {
    let shown = path.display();
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| anyhow!("{shown}: {error}"))?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| anyhow!("{shown}: {error}"))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        bail!("{shown}: expected at most {MAX_FILE_BYTES} bytes, found more");
    }
    settings(&text, plain).map_err(|wrong| match wrong.line {
        Some(line) => anyhow!("{shown}:{line}: {}", wrong.what),
        None => anyhow!("{shown}: {}", wrong.what),
    })
}

#[derive(Debug, PartialEq)]
struct Wrong {
    line: Option<usize>,
    what: String,
}

fn settings(text: &str, plain: &Command) -> Result<Vec<Setting>, Wrong> {
    let line_of = |at: usize| text.get(..at).map(|before| 1 + before.matches('\n').count());
    let table = DeTable::parse(text).map_err(|error| Wrong {
        line: error.span().and_then(|span| line_of(span.start)),
        what: error.message().to_owned(),
    })?;
    let serve = plain.find_subcommand(SERVE).expect("dots has it");
    let mut settings = Vec::new();
    for (key, value) in table.get_ref() {
        let flag: &str = key.get_ref();
        let wrong = |what: String| Wrong { line: line_of(key.span().start), what };
        let arg = known(serve, flag).map_err(wrong)?;
        let args = arguments(flag, arg, value.get_ref()).map_err(wrong)?;
        // Tried alone, so that a wrong value is told by its line.
        let tried = ["dots", SERVE].into_iter().chain(args.iter().map(String::as_str));
        if let Err(error) = plain.clone().try_get_matches_from(tried)
            && error.kind() != ErrorKind::MissingRequiredArgument
        {
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default();
            return Err(wrong(first.strip_prefix("error: ").unwrap_or(first).to_owned()));
        }
        settings.push(Setting { id: arg.get_id().to_string(), flag: flag.to_owned(), args });
    }
    Ok(settings)
}

fn flags(serve: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    serve.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg))).filter(|&(long, _)| long != "help")
}

fn known<'a>(serve: &'a Command, flag: &str) -> Result<&'a Arg, String> {
    if NOT_IN_A_FILE.contains(&flag) {
        return Err(format!("{flag}: is a flag only"));
    }
    if let Some((_, arg)) = flags(serve).find(|&(long, _)| long == flag) {
        return Ok(arg);
    }
    let likeness = |long: &str| strsim::jaro_winkler(long, &flag.replace('_', "-"));
    let nearest = flags(serve)
        .flat_map(|(long, arg)| {
            // Who writes an alias is told the name.
            let aliases = arg.get_all_aliases().unwrap_or_default();
            std::iter::once(long).chain(aliases).map(|name| (likeness(name), long)).collect::<Vec<_>>()
        })
        .filter(|&(alike, long)| alike >= ALIKE && !NOT_IN_A_FILE.contains(&long))
        .max_by(|one, other| one.0.total_cmp(&other.0));
    Err(match nearest {
        Some((_, long)) => format!("unknown key '{flag}'; the nearest known one is '{long}'"),
        None => format!("unknown key '{flag}'; `dots serve --help` lists the flags"),
    })
}

fn arguments(flag: &str, arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return match value.as_bool() {
            Some(true) => Ok(vec![format!("--{flag}")]),
            Some(false) => Ok(Vec::new()),
            None => Err(format!("{flag}: expected true or false, found {}", article(value))),
        };
    }
    let takes_many = matches!(arg.get_action(), ArgAction::Append);
    let values: Vec<&DeValue<'_>> = match value.as_array() {
        Some(array) if takes_many => array.iter().map(|item| item.get_ref()).collect(),
        Some(_) => return Err(format!("{flag}: expected one value, found an array")),
        None => vec![value],
    };
    values.into_iter().map(|value| Ok(format!("--{flag}={}", text_of(flag, value)?))).collect()
}

fn text_of(flag: &str, value: &DeValue<'_>) -> Result<String, String> {
    let whole = |number: &toml::de::DeInteger<'_>| i64::from_str_radix(number.as_str(), number.radix()).ok();
    let text = (value.as_str().map(str::to_owned))
        .or_else(|| value.as_integer().and_then(whole).map(|number| number.to_string()))
        .or_else(|| value.as_float().map(|number| number.as_str().to_owned()));
    text.ok_or_else(|| format!("{flag}: expected text or a number, found {}", article(value)))
}

fn article(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { format!("an {kind}") } else { format!("a {kind}") }
}

impl Layered {
    /// The settings in force, as a file that would set them, each with where it comes from; defaults are comments. No key is
    /// shown.
    pub fn print(&self, serve: &Command, matches: &ArgMatches) -> String {
        let mut text = String::new();
        for (flag, arg) in flags(serve).filter(|(flag, _)| !NOT_IN_A_FILE.contains(flag)) {
            // MODEL is one setting in two forms, of which the one without a name goes first.
            let forms: &[&str] = if flag == "model" { &["model", "model_flag"] } else { &[arg.get_id().as_str()] };
            let set = forms.iter().find_map(|id| Some((*id, matches.get_raw(id)?)));
            let Some((id, values)) = set.filter(|(id, _)| matches.value_source(id).is_some()) else {
                let _ = writeln!(text, "# {flag} =");
                continue;
            };
            let source = match matches.value_source(id) {
                _ if self.from_file.contains(id) => "file".to_owned(),
                Some(ValueSource::CommandLine) => "flag".to_owned(),
                Some(ValueSource::EnvVariable) => variable(flag),
                _ => "default".to_owned(),
            };
            if flag == SECRET {
                let _ = writeln!(text, "# {flag} = {} not shown  # {source}", values.count());
                continue;
            }
            let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
            let shown: Vec<String> = match is_flag {
                true => vec![matches.get_flag(id).to_string()],
                false => values.map(|value| toml_value(&value.to_string_lossy())).collect(),
            };
            let shown = match arg.get_action() {
                ArgAction::Append => format!("[{}]", shown.join(", ")),
                _ => shown.join(", "),
            };
            // Some flags may stand only beside others, so a default is not set.
            let comment = if source == "default" { "# " } else { "" };
            let _ = writeln!(text, "{comment}{flag} = {shown}  # {source}");
        }
        text
    }
}

/// A whole number as one, all else as text; JSON's strings are TOML's.
fn toml_value(text: &str) -> String {
    let is_whole = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
    if is_whole { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn wrong(text: &str) -> (Option<usize>, String) {
        match settings(text, &Cli::command()) {
            Ok(_) => panic!("{text} is no error"),
            Err(wrong) => (wrong.line, wrong.what),
        }
    }

    fn args(text: &str) -> Vec<String> {
        settings(text, &Cli::command()).unwrap().into_iter().flat_map(|setting| setting.args).collect()
    }

    #[test]
    fn every_flag_of_serve_has_a_variable_and_a_key() {
        let command = with_variables(Cli::command());
        let serve = command.find_subcommand(SERVE).unwrap();
        let mut seen = 0;
        for (flag, arg) in flags(serve) {
            let name = variable(flag);
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(name.as_str()), "{flag}");
            if NOT_IN_A_FILE.contains(&flag) {
                continue;
            }
            seen += 1;
            let choices = arg.get_possible_values();
            let value = match arg.get_action() {
                ArgAction::SetTrue => "true".to_owned(),
                _ if !choices.is_empty() => format!("{:?}", choices[0].get_name()),
                _ => match arg.get_default_values() {
                    [default] => toml_value(&default.to_string_lossy()),
                    _ if flag == "cors-origin" => "\"*\"".to_owned(),
                    _ => "1".to_owned(),
                },
            };
            assert_eq!(args(&format!("{flag} = {value}")).len(), 1, "{flag} = {value}");
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn values_of_every_kind_are_taken() {
        assert_eq!(args("port = 0x1F90"), ["--port=8080"]);
        assert_eq!(args("host = \"::1\"\ntrust-remote-code = false"), ["--host=::1"]);
        assert_eq!(args("served-model-name = ['a', \"b\"]"), ["--served-model-name=a", "--served-model-name=b"]);
        assert_eq!(args("trust-remote-code = true"), ["--trust-remote-code"]);
        assert!(args("# nothing\n").is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line() {
        assert_eq!(
            wrong("host = 'x'\nprot = 1"),
            (Some(2), "unknown key 'prot'; the nearest known one is 'port'".to_owned())
        );
        assert_eq!(
            wrong("max_model_len = 1").1,
            "unknown key 'max_model_len'; the nearest known one is 'max-model-len'"
        );
        assert!(wrong("model-path = 'x'").1.ends_with("is 'model'"));
        assert!(wrong("\n\nzzz = 1").1.contains("--help"));
        for (text, line, what) in [
            ("port = 70000", 1, "--port"),
            ("\nport = 'x'", 2, "--port"),
            ("port = true", 1, "expected text or a number, found a boolean"),
            ("port = [1]", 1, "expected one value, found an array"),
            ("trust-remote-code = 1", 1, "expected true or false, found an integer"),
            ("[server]\nport = 1", 1, "unknown key 'server'"),
            ("host = 1979-05-27", 1, "found a datetime"),
            ("config = 'x'", 1, "config: is a flag only"),
            ("drain-seconds = 1.5", 1, "--drain-seconds"),
            ("log-format = 'xml'", 1, "--log-format"),
            ("port = 1\nport = 2", 2, "duplicate"),
            ("port = ", 1, ""),
        ] {
            let (found_line, found) = wrong(text);
            assert_eq!(found_line, Some(line), "{text}: {found}");
            assert!(found.contains(what), "{text}: {found}");
        }
    }

    #[test]
    fn what_is_printed_is_a_file_that_sets_the_same() {
        let plain = Cli::command();
        let typed = ["dots", "serve", "it's \"x\"", "--port", "1", "--api-key", "secret", "--cors-origin", "*"];
        let matches = plain.clone().get_matches_from(typed);
        let layered = Layered { args: Vec::new(), from_file: HashSet::from(["port".to_owned()]) };
        let serve = plain.find_subcommand(SERVE).unwrap();
        let text = layered.print(serve, matches.subcommand_matches(SERVE).unwrap());
        assert!(!text.contains("secret"), "{text}");
        for line in [
            "model = \"it's \\\"x\\\"\"  # flag",
            "port = 1  # file",
            "# host = \"127.0.0.1\"  # default",
            "cors-origin = [\"*\"]  # flag",
            "# trust-remote-code = false  # default",
            "# api-key = 1 not shown  # flag",
            "# tls-cert =",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let set: Vec<String> = settings(&text, &plain).unwrap().into_iter().map(|setting| setting.flag).collect();
        assert_eq!(set.len(), 3, "{set:?}");
    }
}
