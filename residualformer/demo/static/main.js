// The page without a server: the model runs in the browser, and no audio leaves it (docs/demo.md).
// It runs beside the page, not in a worker, so that the page's Content-Security-Policy holds for all of its code.
import { show, start } from "./app.js";
import { loadModel } from "./model.js";
import { Recognizer } from "./recognizer.js";
import { createSearch } from "./search.js";

const MOST_WAITING_S = 10; // of audio that is not recognized yet; with more, this machine is too slow

class LocalStream {
  // See `start` of app.js.
  constructor(recognizer, answer) {
    this.recognizer = recognizer;
    this.answer = answer;
    this.waiting = []; // blocks of samples
    this.ready = this.idle = Promise.resolve();
    this.ended = new Promise((resolve, reject) => { Object.assign(this, { resolve, reject }); });
    this.ended.catch(() => {});
  }

  send(samples) {
    if (this.isClosed) return;
    this.waiting.push({ samples, arrived: performance.now() });
    const count = this.waiting.reduce((sum, block) => sum + block.samples.length, 0);
    if (count > MOST_WAITING_S * this.recognizer.rate) this.fail(new Error("this machine is too slow for the model"));
    this.work();
  }

  room() {
    return this.idle;
  }

  end() {
    this.isEnding = true;
    this.work();
  }

  fail(error) {
    this.isClosed = true;
    this.waiting = [];
    this.reject(error);
  }

  work() {
    if (this.isWorking) return;
    this.isWorking = true;
    this.idle = this.recognize();
  }

  async recognize() {
    try {
      while (this.waiting.length > 0) {
        const { samples, arrived } = this.waiting.shift();
        this.answer(await this.recognizer.accept(samples, arrived));
        await new Promise((resolve) => { setTimeout(resolve); }); // lets the browser draw
      }
      if (this.isEnding && !this.isClosed) {
        this.isClosed = true;
        this.answer(await this.recognizer.finish());
        this.resolve();
      }
    } catch (error) {
      this.fail(error);
    } finally {
      this.isWorking = false;
    }
  }
}

export async function loadEngine() {
  const response = await fetch("settings.json");
  if (!response.ok) throw new Error(`settings.json is missing (${response.status}): write the folder again`);
  const settings = await response.json();
  const model = await loadModel(settings.model);
  const search = await createSearch(model, settings.search);
  return {
    greeting: { model: model.name, branches: model.branches },
    fileRate: settings.features.sample_rate_hz,
    createRecognizer: (rate) => new Recognizer(model, search, settings, rate),
    createStream(rate, hotwords, answer) {
      return new LocalStream(this.createRecognizer(rate), answer);
    },
  };
}

document.getElementById("hotwords").closest("p").hidden = true;
show("loading the model");
loadEngine().then(start, (error) => show(error.message));
