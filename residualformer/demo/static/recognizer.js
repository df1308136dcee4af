// Recognition of one stream, as residualformer/runtime/recognizer.py and stream.py define it: samples in, messages out.
// Messages are those of the server (docs/demo.md), except that segments tell no confidence of their words.
import { OnlineFbank } from "./fbank.js";
import { Resampler } from "./resampler.js";

const SHIFT_S = 0.01; // from one feature frame to the next
const HALF_WINDOW_S = 0.0125; // a feature frame covers 25 ms around its middle
const SPACE = /\u2581/g; // sentencepiece's visible space

export class Recognizer {
  // `settings` are settings.json.
  constructor(model, search, settings, rate) {
    this.model = model;
    this.search = search;
    this.rules = settings.endpoint_rules;
    this.rate = rate;
    this.modelRate = settings.features.sample_rate_hz;
    this.resampler = new Resampler(rate, this.modelRate);
    this.fbank = new OnlineFbank(settings.features);
    this.buffer = []; // feature frames that are still needed
    this.position = 0; // feature frames before them
    this.received = 0; // samples
    this.spent = 0; // ms of work
    this.arrivals = []; // { seconds received by then, ms on the clock }
    this.segments = [];
    this.flushed = false;
    this.begin();
  }

  async accept(samples, arrived) {
    // Recognizes the next samples, a Float32Array that arrived at a time of performance.now(); returns a message.
    this.received += samples.length;
    this.arrivals.push({ seconds: this.received / this.rate, clock: arrived });
    return this.decoded(() => this.fbank.accept(this.resampler.resample(samples)));
  }

  async finish() {
    // Recognizes the rest; returns the last message.
    this.arrivals.push({ seconds: Infinity, clock: performance.now() });
    const message = await this.decoded(() => {
      this.fbank.accept(this.resampler.resample(new Float32Array(0), true));
      this.fbank.accept(new Float32Array(Math.round(this.model.tail_s * this.modelRate)));
      this.fbank.finish();
      this.flushed = true;
    });
    return { ...message, ended: true };
  }

  async decoded(addFeatures) {
    const started = performance.now();
    addFeatures();
    this.buffer.push(...this.fbank.pop());
    let window;
    do {
      window = this.window();
      if (window) await this.step(window);
      this.close();
    } while (window);
    const partial = this.result(), segments = this.segments.splice(0);
    this.spent += performance.now() - started;
    const received = this.received / this.rate;
    const latencies = [...(segments.at(-1)?.latencies ?? []), ...partial.latencies];
    return {
      segments,
      partial: partial.text,
      received,
      rtf: received ? this.spent / 1000 / received : null,
      latency: latencies.at(-1) ?? null,
      branch: this.model.branch(this.state),
    };
  }

  begin() {
    // Starts a segment at the present position.
    this.state = this.model.encoderState();
    this.searched = this.search.start();
    this.segmentStart = this.position;
    this.latencies = []; // of each step
  }

  window() {
    // The next window of features, shorter at the end; null if it is incomplete.
    const { window, tail_s } = this.model;
    const complete = this.buffer.length >= window || (this.flushed && this.buffer.length > 0 && tail_s === 0);
    return complete ? this.buffer.slice(0, window) : null;
  }

  async step(features) {
    const { shift, subsampling } = this.model;
    const { frames, state } = await this.model.encode(features, features.length, this.state);
    this.state = state;
    const real = Math.ceil(Math.min(features.length, shift) / subsampling);
    await this.search.advance(this.searched, frames.slice(0, real));
    const needed = this.needed(this.position + features.length);
    while (this.arrivals.length > 1 && this.arrivals[0].seconds < needed - 1e-9) this.arrivals.shift();
    this.latencies.push((performance.now() - this.arrivals[0].clock) / 1000);
    this.position += Math.min(shift, this.buffer.length);
    this.buffer.splice(0, shift);
  }

  needed(frames) {
    // The seconds of audio that so many feature frames cover.
    return (frames - 0.5) * SHIFT_S + HALF_WINDOW_S;
  }

  close() {
    // Closes the open segment if the stream is over or a rule holds; one without tokens leaves no result.
    const over = this.flushed && this.buffer.length < (this.model.tail_s ? this.model.window : 1);
    const last = this.search.lastFrame(this.searched), done = this.searched.numFrames;
    const frame_s = this.model.subsampling * SHIFT_S;
    const trailing = (last === null ? done : done - 1 - last) * frame_s + 1e-6; // sums of 0.01 s
    const holds = ({ needs_tokens, trailing_s, length_s }) => {
      return trailing >= trailing_s && done * frame_s + 1e-6 >= length_s && (last !== null || !needs_tokens);
    };
    if (!over && !this.rules.some(holds)) return;
    if (last !== null) this.segments.push(this.result());
    this.begin();
  }

  result() {
    // The result so far of the open segment; times are in seconds of the stream.
    const { subsampling, shift, pieces } = this.model;
    const { tokens, frames, score } = this.search.best(this.searched);
    const start = this.segmentStart * SHIFT_S, written = tokens.map((token) => pieces[token]);
    return {
      text: written.join("").replace(SPACE, " ").replace(/^ /, ""),
      tokens: written,
      times: frames.map((frame) => start + frame * subsampling * SHIFT_S),
      latencies: frames.map((frame) => this.latencies[Math.floor(frame * subsampling / shift)]),
      score,
      start,
      end: Math.min(this.position * SHIFT_S, this.received / this.rate),
    };
  }
}
