// Greedy and beam search of one stream, as residualformer/runtime/greedy.py and beam.py define them, without context.
// A hypothesis is { tokens, frames, score }: ids, the encoder frame of each, and the natural log-probability.

export async function createSearch(model, settings) {
  // `settings` are the "search" of settings.json.
  const [first] = await model.predict([model.blank_id], [model.predictorState()]);
  return new { greedy: GreedySearch, beam: BeamSearch }[settings.kind](model, settings, first);
}

class Search {
  constructor(model, settings, first) {
    this.model = model;
    this.settings = settings;
    this.first = first; // the predictor's output and state after the blank
    this.blank = model.blank_id;
  }

  async logProbabilities(encoded, predicted) {
    // Of all labels, for pairs of an encoder's frame and a predictor's output.
    const rows = await this.model.join(encoded, predicted);
    for (const row of rows) {
      row[this.blank] -= this.settings.blank_penalty;
      const most = row.reduce((a, b) => Math.max(a, b));
      const norm = most + Math.log(row.reduce((sum, value) => sum + Math.exp(value - most), 0));
      row.forEach((value, label) => { row[label] = value - norm; });
    }
    return rows;
  }

  separated({ tokens, frames, score }) {
    // The label that parts words stands where the predictor started afresh after a pause.
    const { restart_frames: pause, separator } = this.settings;
    const found = { tokens: [], frames: [], score };
    tokens.forEach((token, i) => {
      const paused = i > 0 && pause > 0 && frames[i] - frames[i - 1] > pause;
      if (paused && separator !== null && token !== separator && tokens[i - 1] !== separator) {
        found.tokens.push(separator);
        found.frames.push(frames[i]);
      }
      found.tokens.push(token);
      found.frames.push(frames[i]);
    });
    return found;
  }
}

const RUN = 8; // frames that the joiner sees in one call; most of them write nothing

export class GreedySearch extends Search {
  start() {
    // `fresh`: the predictor has seen no label; `written`: labels at the present frame.
    return { tokens: [], frames: [], score: 0, numFrames: 0, predicted: this.first, fresh: true, written: 0 };
  }

  best(state) {
    return this.separated(state);
  }

  lastFrame(state) {
    return state.frames.at(-1) ?? null;
  }

  async advance(state, encoded) {
    for (let rest = encoded; rest.length > 0;) {
      const tried = rest.slice(0, this.run(state));
      const rows = await this.logProbabilities(tried, tried.map(() => state.predicted.output));
      const { passed, label } = this.read(state, rows);
      if (label !== null) {
        [state.predicted] = await this.model.predict([label], [state.predicted.state]);
        state.fresh = false;
      }
      rest = rest.slice(passed);
    }
  }

  run(state) {
    // The frames on which one output of the predictor may be tried; starts it afresh where a pause is over.
    if (!this.settings.restart_frames || state.fresh) return RUN;
    const left = state.frames.at(-1) + 1 + this.settings.restart_frames - state.numFrames;
    if (left > 0) return Math.min(RUN, left);
    state.predicted = this.first;
    state.fresh = true;
    return RUN;
  }

  read(state, rows) {
    // Advances to the first label; returns the frames passed, and the label, null if there is none.
    for (let passed = 0; passed < rows.length; passed++) {
      const row = rows[passed], blank = row[this.blank];
      row[this.blank] -= this.settings.token_reward;
      const label = state.written >= this.settings.max_symbols ? this.blank : argmax(row);
      if (label !== this.blank) {
        state.score += row[label];
        state.tokens.push(label);
        state.frames.push(state.numFrames);
        state.written += 1;
        return { passed, label };
      }
      state.score += blank;
      state.numFrames += 1;
      state.written = 0;
    }
    return { passed: rows.length, label: null };
  }
}

class Sequence {
  // A label sequence; equal ones are the same object.
  constructor(length = 0) {
    this.length = length;
    this.longer = new Map();
  }

  add(label) {
    if (!this.longer.has(label)) this.longer.set(label, new Sequence(this.length + 1));
    return this.longer.get(label);
  }
}

export class BeamSearch extends Search {
  // A prefix is { sequence, score, length, path, predicted, fresh }: `score` is its log-probability with the rewards of
  // its labels, `path` the likeliest alignment, { before, label, frame } or null for the empty one.
  start() {
    const sequence = new Sequence(), predicted = this.first;
    const alive = [{ sequence, score: 0, length: 0, path: null, predicted, fresh: true }];
    return { alive, predictions: new Map([[sequence, predicted]]), numFrames: 0 };
  }

  best(state) {
    let found = state.alive[0];
    if (this.settings.length_norm) {
      const each = (prefix) => this.logProbability(prefix) / (prefix.length + 1);
      found = state.alive.reduce((a, b) => each(b) > each(a) ? b : a);
    }
    const tokens = [], frames = [];
    for (let path = found.path; path; path = path.before) {
      tokens.unshift(path.label);
      frames.unshift(path.frame);
    }
    return this.separated({ tokens, frames, score: this.logProbability(found) });
  }

  lastFrame(state) {
    return this.best(state).frames.at(-1) ?? null;
  }

  logProbability(prefix) {
    return prefix.score - this.settings.token_reward * prefix.length;
  }

  async advance(state, encoded) {
    for (const frame of encoded) {
      if (this.settings.restart_frames) this.restart(state);
      const done = new Map();
      let alive = state.alive;
      for (let symbols = 0; alive.length > 0; symbols++) {
        const predicted = alive.map((prefix) => prefix.predicted.output);
        const rows = await this.logProbabilities(predicted.map(() => frame), predicted);
        const scores = alive.map((prefix) => prefix.score);
        this.stopHere(alive, rows, done);
        const longer = symbols === this.settings.max_symbols ? [] : this.longer(alive, scores, rows, done);
        alive = this.write(state, longer);
        await this.predict(state, alive);
      }
      this.finish(state, done);
    }
  }

  restart(state) {
    // Starts the predictor afresh for prefixes whose likeliest alignment wrote nothing for long enough. Such a prefix
    // merges with one that started afresh before it, not with one of the same labels that the predictor remembers.
    const alive = new Map(state.alive.map((prefix) => [prefix.sequence, prefix]));
    for (const prefix of state.alive) {
      const { path, fresh } = prefix;
      if (fresh || !path || state.numFrames - path.frame <= this.settings.restart_frames) continue;
      alive.delete(prefix.sequence);
      prefix.sequence = prefix.sequence.add(this.blank);
      prefix.predicted = this.first;
      prefix.fresh = true;
      state.predictions.set(prefix.sequence, this.first);
      merged(alive, prefix);
    }
    state.alive = [...alive.values()];
  }

  longer(alive, scores, rows, done) {
    // The best continuations of prefixes, whose scores these were before the blank, that can still enter the beam.
    const width = this.settings.beam;
    const worst = [...done.values()].map((prefix) => prefix.score).sort((a, b) => b - a)[width - 1] ?? -Infinity;
    const found = [];
    alive.forEach((prefix, i) => rows[i].forEach((logp, label) => {
      const score = scores[i] + this.settings.token_reward + logp;
      if (score > worst && label !== this.blank) found.push({ prefix, label, score });
    }));
    return found.sort((a, b) => b.score - a.score).slice(0, width);
  }

  stopHere(alive, rows, done) {
    // Adds the prefixes after a blank to those that are done with the frame.
    alive.forEach((prefix, i) => {
      prefix.score += rows[i][this.blank];
      merged(done, prefix);
    });
  }

  write(state, longer) {
    // The continuations as prefixes.
    return longer.map(({ prefix, label, score }) => {
      const sequence = prefix.sequence.add(label), known = state.predictions.get(sequence);
      if (known) {
        state.predictions.delete(sequence); // now the most recently used
        state.predictions.set(sequence, known);
      }
      const path = { before: prefix.path, label, frame: state.numFrames };
      const parent = prefix.predicted;
      return { sequence, score, length: prefix.length + 1, path, predicted: known ?? null, parent, fresh: false };
    });
  }

  async predict(state, prefixes) {
    // Runs the predictor where it has not run yet.
    const unknown = prefixes.filter((prefix) => !prefix.predicted);
    if (unknown.length > 0) {
      const labels = unknown.map((prefix) => prefix.path.label), states = unknown.map((prefix) => prefix.parent.state);
      const found = await this.model.predict(labels, states);
      unknown.forEach((prefix, i) => {
        prefix.predicted = found[i];
        state.predictions.set(prefix.sequence, found[i]);
      });
    }
    for (const prefix of prefixes) delete prefix.parent;
  }

  finish(state, done) {
    // Passes the best on to the next frame, and forgets the predictor's outputs that were used longest ago.
    const width = this.settings.beam;
    state.alive = [...done.values()].sort((a, b) => b.score - a.score).slice(0, width);
    state.numFrames += 1;
    const living = new Set(state.alive.map((prefix) => prefix.sequence));
    let excess = state.predictions.size - 4 * width;
    for (const sequence of state.predictions.keys()) {
      if (excess <= 0) break;
      if (living.has(sequence)) continue;
      state.predictions.delete(sequence);
      excess -= 1;
    }
  }
}

function merged(prefixes, prefix) {
  // Adds a prefix to a map by sequence, or its alignments to the prefix of the same labels that is there.
  const same = prefixes.get(prefix.sequence);
  if (!same) {
    prefixes.set(prefix.sequence, prefix);
    return;
  }
  const [low, high] = same.score < prefix.score ? [same.score, prefix.score] : [prefix.score, same.score];
  if (prefix.score > same.score) same.path = prefix.path;
  same.score = low === -Infinity ? high : high + Math.log1p(Math.exp(low - high));
}

function argmax(row) {
  return row.reduce((best, value, label) => value > row[best] ? label : best, 0);
}
