// A resampler that works block by block, for microphones: a low-pass filter, a sinc under a Kaiser window.
import { concatenated } from "./fbank.js";

const CROSSINGS = 32; // of zero on each side of the sinc
const PASSED = 0.94; // of the band that both rates can hold
const BETA = 9; // of the Kaiser window: 90 dB

export class Resampler {
  constructor(from, to) {
    const divisor = greatestDivisor(from, to);
    this.up = to / divisor;
    this.down = from / divisor;
    const cutoff = PASSED * Math.min(1, to / from);
    this.reach = Math.ceil(CROSSINGS / cutoff); // samples on each side
    this.filters = Array.from({ length: this.up }, (_, phase) => filter(phase / this.up, this.reach, cutoff));
    this.wave = new Float32Array(this.reach - 1); // from sample `offset` of the stream on; silence before its start
    this.offset = 1 - this.reach;
    this.received = 0;
    this.written = 0;
  }

  resample(samples, last = false) {
    // Returns what is ready after more samples; with `last` the rest as well.
    if (this.up === this.down) return samples;
    this.received += samples.length;
    this.wave = concatenated(this.wave, samples);
    if (last) this.wave = concatenated(this.wave, new Float32Array(this.reach));
    const known = this.offset + this.wave.length - this.reach; // samples with all those that a filter needs around them
    const end = last ? Math.round(this.received * this.up / this.down) : Math.ceil(known * this.up / this.down);
    const found = new Float32Array(Math.max(0, end - this.written));
    for (let n = 0; n < found.length; n++, this.written++) {
      const start = this.start() - this.offset;
      const weights = this.filters[this.written * this.down % this.up];
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * this.wave[start + i];
      found[n] = sum;
    }
    const unused = Math.min(this.start() - this.offset, this.wave.length);
    this.wave = this.wave.slice(unused);
    this.offset += unused;
    return found;
  }

  start() {
    // The first sample under the filter of the next output.
    return Math.floor(this.written * this.down / this.up) + 1 - this.reach;
  }
}

function filter(fraction, reach, cutoff) {
  // The weights of the samples from 1 - reach to reach around a place `fraction` of a sample after one.
  const weights = Array.from({ length: 2 * reach }, (_, i) => {
    const distance = i + 1 - reach - fraction;
    return sinc(cutoff * distance) * bessel(BETA * Math.sqrt(Math.max(0, 1 - (distance / reach) ** 2)));
  });
  const sum = weights.reduce((a, b) => a + b);
  return Float32Array.from(weights, (weight) => weight / sum);
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function bessel(x) {
  // The modified Bessel function of order 0, by its series.
  let sum = 1;
  for (let k = 1, term = 1; term > 1e-12 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}

function greatestDivisor(a, b) {
  return b === 0 ? a : greatestDivisor(b, a % b);
}
