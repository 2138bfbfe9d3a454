// One answer while it is made: the request, what came so far, and its stop.
import { events, ensureLoaded, post } from "./api.js";
import { sampling } from "./settings.js";

// Requests cannot hold the character 0, which a model may write: it is shown and kept as one that is unknown.
const printable = (text) => text.replaceAll("\0", "\ufffd");

// Streams an answer.  onchange(answer) after every piece; the promise resolves with the finished answer, whose `finish`
// is "stop", "length", "tool_calls", "stopped" (by abort) or "error" (with `error`).
export async function generate({ model, messages, settings, signal, onchange }) {
  const answer = { model, content: "", reasoning: "", finish: null, error: null, usage: null, info: null, tokens: 0, started: null };
  try {
    await ensureLoaded(model);
    const body = { model, messages, stream: true, stream_options: { include_usage: true }, ...sampling(settings) };
    answer.started = performance.now();
    for await (const chunk of events("POST", "/v1/chat/completions", body, signal)) {
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) answer.content += printable(choice.delta.content);
      if (choice?.delta?.reasoning_content) answer.reasoning += printable(choice.delta.reasoning_content);
      if (choice?.finish_reason) answer.finish = choice.finish_reason;
      answer.tokens += chunk.moonlight?.tokens?.length ?? (choice?.delta?.content ? 1 : 0);
      if (chunk.usage) answer.usage = chunk.usage;
      if (chunk.moonlight?.seed !== undefined) answer.info = chunk.moonlight;
      onchange(answer);
    }
    answer.finish ??= "error";
    if (answer.finish === "error") answer.error = "The stream ended before the answer did.";
  } catch (error) {
    answer.finish = signal.aborted ? "stopped" : "error";
    answer.error = signal.aborted ? null : error.message;
  }
  onchange(answer);
  return answer;
}

// What is kept of an answer beside its text.
export function metaOf(answer, settings) {
  return {
    finish: answer.finish, reasoning: answer.reasoning || undefined,
    tokens: answer.usage?.completion_tokens ?? answer.tokens, prompt_tokens: answer.usage?.prompt_tokens,
    cached_tokens: answer.usage?.prompt_tokens_details?.cached_tokens,
    tokens_per_second: answer.info?.tokens_per_second, prefill_seconds: answer.info?.prefill_seconds,
    kv_cache: answer.info?.kv_cache ?? settings.kv_cache, trace_id: answer.info?.trace_id ?? undefined, seed: answer.info?.seed,
    sampling: sampling(settings),
  };
}

// The same request with the cache the other way: are the texts equal?
export async function checkCache({ model, messages, meta, content, signal }) {
  const body = { model, messages, ...meta.sampling, seed: meta.seed, kv_cache: !meta.kv_cache, trace: false,
                 max_tokens: meta.tokens };
  const other = await post("/v1/chat/completions", body, signal);
  return { equal: printable(other.choices[0].message.content ?? "") === content, kv_cache: !meta.kv_cache,
           tokens_per_second: other.moonlight.tokens_per_second };
}
