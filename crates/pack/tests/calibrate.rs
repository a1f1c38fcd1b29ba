//! Calibration: what a text uses most is rounded best.

mod support;

use dots_pack::Calibration;
use support::{decoded, golden, open, options, relative_error};

const TEXT: &str = "The early bird catches the worm, but the second mouse gets the cheese. It was 7 o'clock, and the birds \
                    sang; nobody knew what the mouse had in mind. <|response|> A stitch in time saves nine.";

#[test]
fn weighted_errors_fall_and_another_text_gives_other_weights() {
    let source = open(&golden("hf"));
    let calibration = |text: &str| Calibration::run(&source, text, 4096, 2, &mut ()).unwrap();
    let (plain, calibrated) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    dots_pack::pack(&source, plain.path(), &options("q4", &[]), &mut ()).unwrap();
    let mut with = options("q4", &[]);
    with.calibration = Some(calibration(TEXT));
    dots_pack::pack(&source, calibrated.path(), &with, &mut ()).unwrap();
    let error = dots_pack::pack(&source, plain.path(), &with, &mut ()).unwrap_err().to_string();
    assert!(error.contains("another recipe"), "a calibrated pack is another than a plain one: {error}");

    let calibration = calibration(TEXT);
    let (plain, calibrated) = (open(plain.path()), open(calibrated.path()));
    let (mut before, mut after, mut matrices, mut better) = (0.0, 0.0, 0, 0);
    for (name, tensor) in plain.tensors() {
        let importance = calibration.importance(name);
        let (x, other) = (decoded(source.tensor(name).unwrap()), calibrated.tensor(name).unwrap());
        if importance.is_empty() {
            assert_eq!(tensor.data, other.data, "{name}");
            continue;
        }
        assert_eq!(importance.len(), tensor.shape[1], "{name}");
        let mean = importance.iter().sum::<f32>() / importance.len() as f32;
        assert!((mean - 1.0).abs() < 1e-3 && importance.iter().all(|x| *x > 0.0), "{name}");
        let errors = [tensor, other].map(|y| relative_error(&x, &decoded(y), &importance));
        (before, after) = (before + errors[0], after + errors[1]);
        matrices += 1;
        better += usize::from(errors[1] < errors[0]);
    }
    println!("mean weighted error {:.3e} plain, {:.3e} calibrated", before / matrices as f64, after / matrices as f64);
    assert!(matrices > 90 && better * 10 > matrices * 9, "{better} of {matrices} are better");
    assert!(after < 0.97 * before, "{after} {before}");
}

#[test]
fn the_same_text_gives_the_same_bytes_on_any_number_of_threads() {
    let source = open(&golden("hf"));
    let importances = [1, 3].map(|threads| {
        let calibration = Calibration::run(&source, TEXT, 64, threads, &mut ()).unwrap();
        ["model.layers.1.mlp.experts.3.down_proj.weight", "model.layers.2.mlp.experts.0.up_proj.weight"]
            .map(|name| calibration.importance(name))
    });
    assert_eq!(importances[0], importances[1]);
}

#[test]
fn an_empty_text_is_refused() {
    let error = Calibration::run(&open(&golden("hf")), "", 64, 1, &mut ()).unwrap_err().to_string();
    assert!(error.contains("empty"), "{error}");
}
