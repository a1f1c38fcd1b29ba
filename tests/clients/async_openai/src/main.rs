//! The crate `async-openai` against `dots serve`.
//!
//! Its argument is the crate's version. Prints `async-openai: N passed, N failed` and, where DOTS_TEST_RESULTS names a folder, writes what passed there.

use std::{collections::BTreeMap, error::Error, future::Future};

use async_openai::{
    Client,
    config::OpenAIConfig,
    error::OpenAIError,
    types::{
        chat::{
            ChatCompletionMessageToolCalls, ChatCompletionRequestUserMessage, CreateChatCompletionRequest,
            CreateChatCompletionRequestArgs,
        },
        completions::CreateCompletionRequestArgs,
        embeddings::{CreateEmbeddingRequestArgs, EncodingFormat},
        responses::{CreateResponseArgs, ResponseStreamEvent, Status},
    },
};
use futures::StreamExt;
use serde_json::{Value, json};

type Outcome = Result<(), Box<dyn Error>>;
type OurClient = Client<OpenAIConfig>;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

fn model() -> String {
    variable("DOTS_TEST_MODEL")
}

fn hello(stream: bool) -> Result<CreateChatCompletionRequest, OpenAIError> {
    CreateChatCompletionRequestArgs::default()
        .model(model())
        .messages([ChatCompletionRequestUserMessage::from("Hello").into()])
        .max_completion_tokens(12_u32)
        .temperature(0.0)
        .stream(stream)
        .build()
}

async fn said(client: &OurClient) -> Result<String, Box<dyn Error>> {
    let answer = client.chat().create(hello(false)?).await?;
    Ok(answer.choices[0].message.content.clone().ok_or("no content")?)
}

async fn a_chat(client: OurClient) -> Outcome {
    let answer = client.chat().create(hello(false)?).await?;
    let usage = answer.usage.ok_or("no usage")?;
    assert_eq!((answer.model, answer.choices.len()), (model(), 1));
    assert!(usage.completion_tokens <= 12 && usage.total_tokens == usage.prompt_tokens + usage.completion_tokens);
    Ok(())
}

async fn a_streamed_chat_says_the_same(client: OurClient) -> Outcome {
    let mut stream = client.chat().create_stream(hello(true)?).await?;
    let (mut text, mut ends) = (String::new(), 0);
    while let Some(chunk) = stream.next().await {
        for choice in chunk?.choices {
            text += &choice.delta.content.unwrap_or_default();
            ends += usize::from(choice.finish_reason.is_some());
        }
    }
    assert_eq!((text, ends), (said(&client).await?, 1));
    Ok(())
}

fn with_tools(stream: bool) -> Result<CreateChatCompletionRequest, serde_json::Error> {
    serde_json::from_value(json!({
        "model": model(),
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Seoul", "Busan"]}},
            "required": ["city"],
            "additionalProperties": false,
        }}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "max_completion_tokens": 100,
        "stream": stream,
        "seed": 1,
    }))
}

fn is_a_call(name: &str, arguments: &str) -> bool {
    let arguments: Option<Value> = serde_json::from_str(arguments).ok();
    name == "weather" && arguments.is_some_and(|arguments| ["Seoul", "Busan"].contains(&arguments["city"].as_str().unwrap_or("")))
}

async fn a_tool_is_called(client: OurClient) -> Outcome {
    let answer = client.chat().create(with_tools(false)?).await?;
    let calls = answer.choices[0].message.tool_calls.as_deref().ok_or("no calls")?;
    let ChatCompletionMessageToolCalls::Function(call) = &calls[0] else { return Err("another kind of call".into()) };
    assert!(is_a_call(&call.function.name, &call.function.arguments), "{call:?}");
    Ok(())
}

async fn a_tool_is_called_in_a_stream(client: OurClient) -> Outcome {
    let mut stream = client.chat().create_stream(with_tools(true)?).await?;
    let (mut name, mut arguments) = (String::new(), String::new());
    while let Some(chunk) = stream.next().await {
        let calls = chunk?.choices.into_iter().flat_map(|choice| choice.delta.tool_calls.unwrap_or_default());
        for function in calls.filter_map(|call| call.function) {
            name += &function.name.unwrap_or_default();
            arguments += &function.arguments.unwrap_or_default();
        }
    }
    assert!(is_a_call(&name, &arguments), "{name}({arguments})");
    Ok(())
}

async fn a_completion_and_its_stream(client: OurClient) -> Outcome {
    let ask = |stream: bool| {
        let mut request = CreateCompletionRequestArgs::default();
        request.model(model()).prompt("Once upon a time").max_tokens(8_u32).temperature(0.0).stream(stream).build()
    };
    let whole = client.completions().create(ask(false)?).await?;
    let mut stream = client.completions().create_stream(ask(true)?).await?;
    let mut text = String::new();
    while let Some(chunk) = stream.next().await {
        text.extend(chunk?.choices.into_iter().map(|choice| choice.text));
    }
    assert_eq!(text, whole.choices[0].text);
    Ok(())
}

async fn embeddings(client: OurClient) -> Outcome {
    let request = CreateEmbeddingRequestArgs::default().model(model()).input(["one", "two"]).build()?;
    let answer = client.embeddings().create(request).await?;
    for one in &answer.data {
        let length: f32 = one.embedding.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-3, "{length}");
    }
    assert_eq!(answer.data.len(), 2);
    let request = CreateEmbeddingRequestArgs::default().model(model()).input("one").encoding_format(EncodingFormat::Base64).build()?;
    let packed = client.embeddings().create_base64(request).await?;
    let packed: Vec<f32> = packed.data.into_iter().next().ok_or("no vector")?.embedding.into();
    assert_eq!(packed, answer.data[0].embedding);
    Ok(())
}

async fn models(client: OurClient) -> Outcome {
    let list = client.models().list().await?;
    assert_eq!(list.data.iter().map(|model| model.id.clone()).collect::<Vec<_>>(), [model()]);
    assert_eq!(client.models().retrieve(&model()).await?.id, model());
    Ok(())
}

async fn a_response_goes_on_from_another(client: OurClient) -> Outcome {
    let request = || {
        let mut request = CreateResponseArgs::default();
        request.model(model()).input("Hello").max_output_tokens(8_u32).temperature(0.0);
        request
    };
    let first = client.responses().create(request().build()?).await?;
    assert!(matches!(first.status, Status::Completed | Status::Incomplete), "{:?}", first.status);
    assert_eq!(client.responses().retrieve(&first.id).await?.output_text(), first.output_text());
    let next = client.responses().create(request().previous_response_id(&first.id).build()?).await?;
    let tokens = |response: &async_openai::types::responses::Response| response.usage.as_ref().map(|usage| usage.input_tokens);
    assert!(tokens(&next) > tokens(&first), "{:?}", next.usage);
    assert!(client.responses().delete(&first.id).await?.deleted);
    Ok(())
}

async fn a_streamed_response_says_the_same(client: OurClient) -> Outcome {
    let ask = |stream: bool| {
        let mut request = CreateResponseArgs::default();
        request.model(model()).input("Hello").max_output_tokens(8_u32).temperature(0.0).stream(stream).build()
    };
    let whole = client.responses().create(ask(false)?).await?;
    let mut stream = client.responses().create_stream(ask(true)?).await?;
    let (mut text, mut ends) = (String::new(), 0);
    while let Some(event) = stream.next().await {
        match event? {
            ResponseStreamEvent::ResponseOutputTextDelta(event) => text += &event.delta,
            ResponseStreamEvent::ResponseCompleted(_) | ResponseStreamEvent::ResponseIncomplete(_) => ends += 1,
            _ => {}
        }
    }
    assert_eq!((text, ends), (whole.output_text().unwrap_or_default(), 1));
    Ok(())
}

async fn errors_are_told(client: OurClient) -> Outcome {
    let mut request = hello(false)?;
    request.model = "another".into();
    match client.chat().create(request).await {
        Err(OpenAIError::ApiError(error)) => assert_eq!(error.api_error.code.as_deref(), Some("model_not_found")),
        other => return Err(format!("{other:?}").into()),
    }
    let stranger = Client::with_config(config().with_api_key("another"));
    match stranger.models().list().await {
        Err(OpenAIError::ApiError(error)) => assert_eq!(error.api_error.code.as_deref(), Some("invalid_api_key")),
        other => return Err(format!("{other:?}").into()),
    }
    Ok(())
}

fn config() -> OpenAIConfig {
    OpenAIConfig::new().with_api_base(format!("{}/v1", variable("DOTS_TEST_URL"))).with_api_key(variable("DOTS_TEST_KEY"))
}

#[tokio::main]
async fn main() {
    let mut cases = BTreeMap::new();
    macro_rules! run {
        ($($case:ident),* $(,)?) => {
            $(cases.insert(stringify!($case), passes(stringify!($case), $case(Client::with_config(config()))).await);)*
        };
    }
    run!(
        a_chat,
        a_streamed_chat_says_the_same,
        a_tool_is_called,
        a_tool_is_called_in_a_stream,
        a_completion_and_its_stream,
        embeddings,
        models,
        a_response_goes_on_from_another,
        a_streamed_response_says_the_same,
        errors_are_told,
    );
    let passed = cases.values().filter(|&&passed| passed).count();
    let failed = cases.len() - passed;
    println!("async-openai: {passed} passed, {failed} failed");
    if let Ok(folder) = std::env::var("DOTS_TEST_RESULTS") {
        let result = json!({"client": "async-openai for Rust", "version": std::env::args().nth(1).unwrap_or_default(), "cases": cases});
        let path = std::path::Path::new(&folder).join("async-openai.json");
        std::fs::write(path, result.to_string()).expect("the results' folder is there");
    }
    std::process::exit(i32::from(failed > 0));
}

/// Whether a case neither panics nor fails.
async fn passes(name: &str, case: impl Future<Output = Outcome> + 'static) -> bool {
    let outcome = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(case)).await;
    if let Ok(Err(error)) = &outcome {
        eprintln!("async-openai: {name} failed: {error}");
    }
    matches!(outcome, Ok(Ok(())))
}
