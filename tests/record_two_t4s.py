"""Record a run on two made-up T4s, for the pictures of the Kaggle guide.

    python tests/record_two_t4s.py [FILE]

The cards are those of tests/pretend_t4: their memory is counted, the computing is done by this machine's processor. The
models have the width of CodeRankEmbed and CodeRankLLM, and of the latter the whole table of token embeddings, but few
layers and no training. The events of the run are kept, of the ticks of the clock one in two seconds, and as often what
the cards and the host say, as the dashboard asks them. The first line of the file says when, where and how."""
import json, os, platform, subprocess, sys, tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT/'nbs/guides/recorded_two_t4s.jsonl'
EVERY = 2 # seconds between two ticks, and two questions to the machine
CHUNKS = 62 # of each of six packages, at the most

def recorder(kept):
    "A sink that keeps events and samples, as a dashboard sees them."
    from coderank_qdrant.console import Every
    from coderank_qdrant.display import sample
    from coderank_qdrant.machine import nvml
    from coderank_qdrant.view import View, fold
    view, often = View(), Every(EVERY)
    def keep(event):
        kept.append(event)
        fold(view, event)
    def sink(event):
        due = event.name in ('batch', 'tick') and often(event.time)
        if due or event.name != 'tick': keep(event)
        if due: keep(sample(view, nvml()))
    return sink

def make_models(folder):
    "Two models, small in depth and without training."
    from conftest import make_nomic_bert, make_qwen2
    (folder/'CodeRankEmbed').mkdir(parents=True)
    make_nomic_bert(folder/'CodeRankEmbed')
    make_qwen2(folder/'CodeRankLLM', causal=True, sentence=False, seed=1, vocab=152_064, dtype='float16')
    return folder

def record(folder):
    "The events of a run on two made-up cards; this process has them."
    from coderank_qdrant import pipeline
    from coderank_qdrant.chunking import demo_corpus
    kept, usual = [], pipeline.run_sinks
    pipeline.run_sinks = lambda metrics=None: [*usual(metrics), recorder(kept)]
    corpus = demo_corpus(folder, limit=CHUNKS)
    pipeline.embed_corpus(corpus, folder/'demo_corpus_embeddings', profile='coderank', models_dir=make_models(folder/'models'))
    return kept

def about():
    "When, on what machine, by which command."
    return dict(recorded=str(date.today()), machine=f'two made-up T4s, {platform.system()} {platform.machine()}, {os.cpu_count()} cores',
                command='python tests/record_two_t4s.py')

def plain(event, folder):
    "An event as a line of a metrics file, without a path of this machine."
    from coderank_qdrant.events import event_line
    return event_line(event).decode().replace(f'{folder}/', '')

def write(file):
    "Record, and write what came of it."
    with tempfile.TemporaryDirectory() as folder:
        lines = [plain(event, folder) for event in record(Path(folder))]
    file.write_text(json.dumps(about()) + '\n' + ''.join(lines), encoding='utf-8')

def main():
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    if 'PRETEND_GPUS' in os.environ: return write(file)
    from pretend_t4 import environment
    with tempfile.TemporaryDirectory() as board:
        env = {**environment(f'{board}/board', 'T4x2'), 'XDG_CACHE_HOME': f'{board}/cache', 'HF_HUB_OFFLINE': '1'}
        subprocess.run([sys.executable, __file__, file], env=env, check=True)

if __name__ == '__main__': main()
