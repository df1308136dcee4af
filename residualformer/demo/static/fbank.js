// The log-mel filterbank of a stream, as residualformer/data/fbank.py defines it by kaldi-native-fbank.
// Frames do not depend on how the samples are cut into blocks.

export class OnlineFbank {
  // `options` are the "features" of settings.json.
  constructor(options) {
    this.options = options;
    this.shift = Math.round(options.sample_rate_hz * options.frame_shift_ms / 1000); // samples
    this.length = Math.round(options.sample_rate_hz * options.frame_length_ms / 1000);
    this.size = 2 ** Math.ceil(Math.log2(this.length)); // of the Fourier transform
    this.window = windowFunction(options.window_type, this.length);
    this.banks = (options.is_librosa ? slaneyBanks : kaldiBanks)(options, this.size);
    this.level = options.level ? new StreamingLevel(options.level, options.floor) : null;
    this.wave = new Float32Array(0); // from sample `offset` of the stream on
    this.offset = 0;
    this.done = 0; // frames computed
    this.finished = false;
    this.real = new Float64Array(this.size);
    this.imaginary = new Float64Array(this.size);
    this.cosines = Float64Array.from({ length: this.size / 2 }, (_, k) => Math.cos(2 * Math.PI * k / this.size));
    this.sines = Float64Array.from({ length: this.size / 2 }, (_, k) => Math.sin(2 * Math.PI * k / this.size));
  }

  accept(samples) {
    // Adds samples, a Float32Array in [-1, 1] at the configured rate.
    const factor = this.options.level ? 10 ** (this.options.level.most_db / 20) : 1; // see StreamingLevel
    this.wave = concatenated(this.wave, factor === 1 ? samples : samples.map((sample) => sample * factor));
  }

  finish() {
    // Ends the stream: the last frames, whose windows reach beyond it, become ready.
    this.finished = true;
  }

  pop() {
    // Returns the frames that have become ready since the last call, a Float32Array of mel bins each.
    const frames = [];
    for (const ready = this.ready(); this.done < ready; this.done++) {
      const frame = this.frame(this.firstSample(this.done) - this.offset);
      frames.push(this.level ? this.level.normalize(frame) : frame);
    }
    const unused = Math.min(this.firstSample(this.done) - this.offset, this.wave.length);
    if (unused > 0) {
      this.wave = this.wave.slice(unused);
      this.offset += unused;
    }
    return frames;
  }

  firstSample(frame) {
    return this.shift * frame + (this.shift >> 1) - (this.length >> 1);
  }

  ready() {
    const received = this.offset + this.wave.length;
    let frames = Math.floor((received + (this.shift >> 1)) / this.shift);
    while (!this.finished && frames > 0 && this.firstSample(frames - 1) + this.length > received) frames--;
    return frames;
  }

  frame(start) {
    const { real, imaginary, wave, length } = this, { options } = this;
    real.fill(0);
    imaginary.fill(0);
    for (let i = 0; i < length; i++) real[i] = wave[reflected(start + i, wave.length)];
    if (options.remove_dc_offset) {
      let mean = 0;
      for (let i = 0; i < length; i++) mean += real[i] / length;
      for (let i = 0; i < length; i++) real[i] -= mean;
    }
    for (let i = length - 1; i >= 0; i--) {
      real[i] = (real[i] - options.preemphasis * real[Math.max(i - 1, 0)]) * this.window[i];
    }
    fourierTransform(real, imaginary, this.cosines, this.sines);
    const frame = new Float32Array(this.banks.length);
    this.banks.forEach(({ first, weights }, bank) => {
      let energy = 0;
      weights.forEach((weight, i) => {
        energy += weight * (real[first + i] ** 2 + imaginary[first + i] ** 2);
      });
      frame[bank] = Math.max(options.floor, Math.log(energy));
    });
    return frame;
  }
}

class StreamingLevel {
  // The level of a stream, as residualformer/data/level.py defines it; `options` are its constants. Frames are those of
  // samples that are most_db louder.
  constructor(options, floor) {
    this.options = options;
    this.floor = floor;
    this.level = options.target_db - options.most_db;
  }

  normalize(frame) {
    const { target_db, most_db, fade_db } = this.options, perDb = Math.log(10) / 10;
    const top = frame.reduce((a, b) => Math.max(a, b));
    const energy = (top + Math.log(frame.reduce((sum, value) => sum + Math.exp(value - top), 0))) / perDb - most_db;
    this.level = Math.max(energy, this.level - fade_db, target_db - most_db);
    const gain = perDb * (Math.max(target_db - this.level, -most_db) - most_db);
    return frame.map((value) => value > this.floor + 1e-4 ? Math.max(value + gain, this.floor) : value);
  }
}

export function concatenated(a, b) {
  const both = new Float32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

function reflected(index, length) {
  // The sample that stands for one before the start or after the end: -1 for 0, length for length - 1.
  while (index < 0 || index >= length) index = index < 0 ? -index - 1 : 2 * length - 1 - index;
  return index;
}

function windowFunction(type, length) {
  // "hann" is periodic, "povey" symmetric and raised to 0.85.
  const period = type === "hann" ? length : length - 1, power = type === "hann" ? 1 : 0.85;
  return Float32Array.from({ length }, (_, i) => (0.5 - 0.5 * Math.cos(2 * Math.PI * i / period)) ** power);
}

function kaldiBanks(options, size) {
  // Triangles on the mel scale of HTK, without the bin of half the sampling rate.
  const mel = (hz) => 1127 * Math.log(1 + hz / 700);
  const edges = spaced(mel(options.low_freq), mel(options.high_freq), options.num_mel_bins);
  return triangles(edges, size / 2, (bin) => mel(bin * options.sample_rate_hz / size));
}

function slaneyBanks(options, size) {
  // Triangles on the scale of Slaney's Auditory Toolbox: linear up to 1 kHz, of equal area, as librosa has them.
  const perMel = 200 / 3, knee = 1000 / perMel, ratio = Math.log(6.4) / 27;
  const mel = (hz) => hz < 1000 ? hz / perMel : knee + Math.log(hz / 1000) / ratio;
  const hertz = (value) => value < knee ? value * perMel : 1000 * Math.exp((value - knee) * ratio);
  const edges = spaced(mel(options.low_freq), mel(options.high_freq), options.num_mel_bins).map(hertz);
  const banks = triangles(edges, size / 2 + 1, (bin) => bin * options.sample_rate_hz / size);
  return banks.map(({ first, weights }, i) => {
    return { first, weights: weights.map((weight) => weight * 2 / (edges[i + 2] - edges[i])) };
  });
}

function spaced(low, high, bins) {
  return Array.from({ length: bins + 2 }, (_, i) => low + i * (high - low) / (bins + 1));
}

function triangles(edges, size, place) {
  // For each three neighboring edges the first bin of the spectrum in between, and the weights of all of them.
  return edges.slice(2).map((right, i) => {
    const [left, center] = edges.slice(i, i + 2);
    const bins = Array.from({ length: size }, (_, bin) => bin).filter((bin) => place(bin) > left && place(bin) < right);
    const weight = (at) => at <= center ? (at - left) / (center - left) : (right - at) / (right - center);
    return { first: bins[0] ?? 0, weights: bins.map((bin) => weight(place(bin))) };
  });
}

function fourierTransform(real, imaginary, cosines, sines) {
  // In place, of a power of two of complex numbers; the tables cover half a circle.
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let half = 1; half < size; half *= 2) {
    for (let k = 0; k < half; k++) {
      const c = cosines[k * size / (2 * half)], s = -sines[k * size / (2 * half)];
      for (let i = k, j = k + half; i < size; i += 2 * half, j += 2 * half) {
        const x = c * real[j] - s * imaginary[j], y = c * imaginary[j] + s * real[j];
        real[j] = real[i] - x;
        imaginary[j] = imaginary[i] - y;
        real[i] += x;
        imaginary[i] += y;
      }
    }
  }
}
