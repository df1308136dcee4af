// The three networks of an exported folder on onnxruntime-web (docs/format.md).
// A state is an array of tensors or vectors that only the model looks into; vectors are Float32Arrays.
import * as ort from "./ort.wasm.min.js";

const HERE = new URL("./", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more would need cross-origin isolation, headers that plain servers do not send
ort.env.wasm.wasmPaths = { mjs: `${HERE}ort-wasm-simd-threaded.js`, wasm: `${HERE}ort-wasm-simd-threaded.wasm` };

export async function loadModel(settings) {
  // `settings` is the "model" of settings.json.
  const sessions = {};
  for (const [part, file] of Object.entries(settings.files)) {
    sessions[part] = await ort.InferenceSession.create(HERE + file, { executionProviders: ["wasm"] });
  }
  return new { nemo: NemoModel, ebranchformer: EbranchformerModel }[settings.type](settings, sessions);
}

class Model {
  constructor(settings, sessions) {
    Object.assign(this, settings);
    this.sessions = sessions;
  }

  async run(part, tensors) {
    // Inputs and outputs are taken by their order, as in the other runtimes.
    const session = this.sessions[part];
    const feeds = Object.fromEntries(tensors.map((tensor, i) => [session.inputNames[i], tensor]));
    const found = await session.run(feeds);
    return session.outputNames.map((name) => found[name]);
  }

  encoderState() {
    return this.states.encoder.map(({ dtype, shape }) => {
      const sizes = shape.map((size) => size === "N" ? 1 : size), count = sizes.reduce((a, b) => a * b, 1);
      return new ort.Tensor(dtype, new { float32: Float32Array, int64: BigInt64Array }[dtype](count), sizes);
    });
  }

  branch(state) {
    // The branch of an AmNet that a stream takes, 0 is the slow one; null for other models.
    if (this.branches === 1) return null;
    const decision = state[this.front].data.slice(1 - this.branches);
    return decision.some((entry) => entry !== 0) ? decision.indexOf(decision.reduce((a, b) => Math.max(a, b))) + 1 : 0;
  }
}

class NemoModel extends Model {
  async encode(features, length, state) {
    // `features` are the frames of a window, of which `length` are real; returns the encoder's frames and its state.
    const [rows, columns] = [this.num_mel_bins, this.window];
    const signal = new Float32Array(rows * columns);
    features.forEach((frame, t) => frame.forEach((value, bin) => { signal[bin * columns + t] = value; }));
    const inputs = [new ort.Tensor("float32", signal, [1, rows, columns]), int64([length], [1])];
    const [out, , ...next] = await this.run("encoder", [...inputs, ...state]);
    const count = out.dims[2];
    const frames = Array.from({ length: count }, (_, t) => {
      return Float32Array.from({ length: this.joint_dim }, (_, j) => out.data[j * count + t]);
    });
    return { frames, state: next };
  }

  predictorState() {
    return this.states.decoder.map(({ shape }) => {
      return new Float32Array(shape.reduce((count, size) => size === "N" ? count : count * size, 1));
    });
  }

  async predict(labels, states) {
    // The predictor's output after one more label, for each of several hypotheses, and its state.
    const count = labels.length;
    const ids = new ort.Tensor("int32", Int32Array.from(labels), [count, 1]);
    const ones = new ort.Tensor("int32", new Int32Array(count).fill(1), [count]);
    const stacked = this.states.decoder.map(({ shape: [layers, , hidden] }, part) => {
      const data = new Float32Array(layers * count * hidden);
      states.forEach((state, n) => {
        for (let layer = 0; layer < layers; layer++) {
          data.set(state[part].subarray(layer * hidden, (layer + 1) * hidden), (layer * count + n) * hidden);
        }
      });
      return new ort.Tensor("float32", data, [layers, count, hidden]);
    });
    const [out, , ...next] = await this.run("decoder", [ids, ones, ...stacked]);
    return labels.map((_, n) => {
      const state = this.states.decoder.map(({ shape: [layers, , hidden] }, part) => {
        const own = new Float32Array(layers * hidden);
        for (let layer = 0; layer < layers; layer++) {
          const start = (layer * count + n) * hidden;
          own.set(next[part].data.subarray(start, start + hidden), layer * hidden);
        }
        return own;
      });
      return { output: row(out, n, this.joint_dim), state };
    });
  }

  async join(encoded, predicted) {
    // The logits of pairs of an encoder's frame and a predictor's output.
    const shape = [encoded.length, this.joint_dim, 1];
    const [logits] = await this.run("joiner", [stack(encoded, shape), stack(predicted, shape)]);
    return encoded.map((_, n) => row(logits, n, this.pieces.length));
  }
}

class EbranchformerModel extends Model {
  async encode(features, length, state) {
    // Takes whole windows alone; see NemoModel.
    const [out, ...next] = await this.run("encoder", [stack(features, [1, this.window, this.num_mel_bins]), ...state]);
    return { frames: Array.from({ length: out.dims[1] }, (_, t) => row(out, t, this.joint_dim)), state: next };
  }

  predictorState() {
    return Array(this.num_previous).fill(-1);
  }

  async predict(labels, states) {
    const histories = labels.map((label, n) => [...states[n], label]);
    const [out] = await this.run("decoder", [int64(histories.flat(), [labels.length, this.num_previous + 1])]);
    return histories.map((history, n) => ({ output: row(out, n, this.joint_dim), state: history.slice(1) }));
  }

  async join(encoded, predicted) {
    const shape = [encoded.length, this.joint_dim];
    const [logits] = await this.run("joiner", [stack(encoded, shape), stack(predicted, shape)]);
    return encoded.map((_, n) => row(logits, n, this.pieces.length));
  }
}

function row(tensor, n, size) {
  return tensor.data.slice(n * size, (n + 1) * size);
}

function stack(vectors, shape) {
  const data = new Float32Array(shape.reduce((a, b) => a * b));
  vectors.forEach((vector, n) => data.set(vector, n * vector.length));
  return new ort.Tensor("float32", data, shape);
}

function int64(values, shape) {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
}
