"Vectors that workers write themselves: whoever dies, each is kept once; a run reads them as if the cache had them."
import random, sys
import numpy as np, pytest
from conftest import make_bert, read_jsonl, run_cli, summary_of, write_file
from coderank_qdrant.cache import VectorCache, get_vectors
from coderank_qdrant.command import InputError
from coderank_qdrant.corpus import read_corpus
from coderank_qdrant.devices import find_devices
from coderank_qdrant.distributed import Hired
from coderank_qdrant.embedding import embed_model
from coderank_qdrant.events import Events
from coderank_qdrant.model_plan import use_budget
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.planning import make_plan
from coderank_qdrant.preparing import load_planned, team_of
from coderank_qdrant.shards import Writer, shard_facts
from coderank_qdrant.summary import Count
from coderank_qdrant.teams import Teams
from coderank_qdrant.workers import Died, Worker

class Near(Worker):
    "What an actor does, in this process; it dies at moments that a seed names."
    def start(self, encoder, folder, space, rng, risk):
        self.made = encoder, folder, space
        self.rng, self.risk, self.deaths, self.calm = rng, risk, 0, 0
        self.replace()
        return self

    def replace(self):
        encoder, folder, space = self.made
        self.hired, self.calls, self.ready = Hired(), [], dict(dim=encoder.card.dim)
        self.hired.encoder, self.hired.near, self.hired.writer = encoder, True, Writer(folder, space, rows=16)

    def send(self, job, rows): self.calls.append(lambda: self.hired.embed([row.ids for row in rows], job.exact, [row.key for row in rows]))

    def flush(self): self.calls.append(self.hired.flush)

    def perhaps_die(self):
        self.calm -= 1
        if self.calm > 0 or self.rng.random() > self.risk: return
        self.deaths, self.calm = self.deaths + 1, 20  # a text that takes three workers down in a row would be put aside
        raise Died('it was killed')

    def receive(self):
        call = self.calls.pop(0)
        self.perhaps_die()
        answer = call()
        self.perhaps_die()  # a shard may be written by now that nobody hears of
        return answer

    def close(self): pass

@pytest.fixture(scope='module')
def planned(tmp_path_factory):
    "A plan of small batches, its model loaded, and what the vectors are."
    root = tmp_path_factory.mktemp('shards')
    rng = random.Random(0)
    texts = [' '.join(f'w{rng.randrange(500)}' for _ in range(rng.randrange(1, 40))) for _ in range(140)]
    write_file(root/'c', 'docs/a_chunks.json', [*texts, 'word ' * 900], 'a.md')
    teams = Teams()
    plan = load_planned(read_corpus(root/'c'), str(make_bert(root/'model')), None, find_devices('cpu'), teams)
    model = use_budget(plan.models[0], 150)
    team = team_of(model, teams)
    with VectorCache(root/'plain.sqlite') as cache:
        assert embed_model(model, team, cache, Events(), Count(plan))
        names = [model.work.texts.name(i) for i in range(len(model.work.texts))]
        vectors = get_vectors(cache, model.fingerprint, names)
    assert len(model.batches) > 15 and len(vectors) == 141
    return plan, model, team[0].encoder, vectors

def assert_all_there(cache, model, vectors):
    found = get_vectors(cache, model.fingerprint, list(vectors))
    assert found.keys() == vectors.keys()
    for text,(tokens,rows) in found.items():
        assert tokens.tolist() == vectors[text][0].tolist() and (rows * vectors[text][1]).sum(1).min() > .99999

@pytest.mark.parametrize('seed', range(20))
def test_workers_die_at_any_moment(planned, tmp_path, seed):
    "With vectors in their hands, and with shards that nobody heard of: nothing is lost, and nothing counts twice."
    plan, model, encoder, vectors = planned
    rng, count, told = random.Random(seed), Count(plan), []
    team = [Near(None, 'cpu', number=i, name=f'cpu {i}').start(encoder, tmp_path, model.fingerprint, rng, .05) for i in range(3)]
    with VectorCache(tmp_path/'vectors.sqlite', tmp_path) as cache:
        assert embed_model(model, team, cache, Events(told.append), count)
        assert not count.bad
        assert cache.read('select count(*), count(distinct hash || win) from vectors where typeof(vector) = "integer"') == [(len(model.work.rows),) * 2]
        assert_all_there(cache, model, vectors)
    assert sum(worker.deaths for worker in team) > 0 and not count.bad and (count.new, count.tokens) == (141, count.all_tokens)
    assert sum(event['rows'] for event in told if event.name == 'batch') == len(model.work.rows)

def test_a_run_that_is_stopped_keeps_what_its_workers_held(planned, tmp_path):
    plan, model, encoder, _ = planned
    worker = Near(None, 'cpu').start(encoder, tmp_path, model.fingerprint, random.Random(0), 0)
    worker.hired.writer.rows = 10**6
    class Enough(Exception): pass
    with VectorCache(tmp_path/'vectors.sqlite', tmp_path) as cache:
        real = worker.send
        def send(job, rows):
            if len(worker.held) == 4: raise Enough
            real(job, rows)
        worker.send = send
        with pytest.raises(Enough): embed_model(model, [worker], cache, Events(), Count(plan))
        kept, = cache.read('select count(*) from vectors')[0]
    shard, = tmp_path.glob('*.parquet')
    assert kept == len(shard_facts(shard)[2]) == sum(len(model.batches[i]) for i in range(4))

def test_a_disk_of_shards_that_is_full_ends_the_run_in_one_line(planned, tmp_path):
    plan, model, encoder, _ = planned
    worker = Near(None, 'cpu').start(encoder, tmp_path/'gone', model.fingerprint, random.Random(0), 0)
    with VectorCache(tmp_path/'vectors.sqlite', tmp_path/'gone') as cache, pytest.raises(InputError, match='cannot write into .*gone: .* cannot be used: '):
        embed_model(model, [worker], cache, Events(), Count(plan))

def test_what_shards_need(tiny, tmp_path, monkeypatch):
    write_file(tmp_path/'c', 'docs/a_chunks.json', ['one text'], 'a.md')
    (tmp_path/'file').write_text('')
    with pytest.raises(InputError, match='needs --engine ray'): embed_corpus(tmp_path/'c', tmp_path/'out', shards=str(tmp_path/'s'))
    with pytest.raises(InputError, match='--shards .*file cannot be used: '):
        embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny), engine='ray', devices='cpu', shards=str(tmp_path/'file'))
    embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny), engine='ray', devices='cpu', shards=str(tmp_path/'s'), dry_run=True)
    assert not (tmp_path/'s').exists() and not (tmp_path/'out').exists(), 'a rehearsal writes nothing'
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(InputError, match=r'coderank_qdrant\[parquet\]'):
        embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny), engine='ray', devices='cpu', shards=str(tmp_path/'s'))

def lines_of(out): return read_jsonl(out/'subset_embeddings.jsonl')

def test_from_shards_to_an_index_and_back(tiny, subset, tmp_path):
    "Two actors; then everything from their shards, from shards that are damaged, and from shards alone."
    out, shards = tmp_path/'out', tmp_path/'out/shards'
    embed_corpus(subset, tmp_path/'plain', profile=str(tiny), devices='cpu')
    p = run_cli(subset, '--out', out, '--profile', tiny, '--engine', 'ray', '--devices', 'cpu,cpu', '--shards', shards)
    assert p.returncode == 0, p.stderr
    written, plain = lines_of(out), lines_of(tmp_path/'plain')
    assert [line['id'] for line in written] == [line['id'] for line in plain]
    assert min(np.dot(a['embedding'], b['embedding']) for a,b in zip(written, plain, strict=True)) > .99999
    whole = (out/'subset_embeddings.jsonl').read_bytes()
    files = sorted(shards.iterdir())
    assert len(files) == 2 and all(path.suffix == '.parquet' for path in files), 'one of each actor, and nothing half done'
    n = [len(shard_facts(path)[2]) for path in files]
    moved = out.rename(tmp_path/'moved')  # the cache knows its shards by where they are from itself
    run = embed_corpus(subset, moved, profile=str(tiny), devices='cpu')
    assert run.summary['computed'] == 0 and run.jsonl.read_bytes() == whole
    from coderank_qdrant.index import index_run
    assert index_run(moved, tmp_path/'index')['points'] == len(written)
    with VectorCache(tmp_path/'new.sqlite', moved/'shards') as cache:
        plan = make_plan(read_corpus(subset), str(tiny), cache, find_devices('cpu'))
        assert not len(plan.models[0].work.rows), 'a cache that was lost is in the shards'
    first, second = sorted((moved/'shards').iterdir())
    first.write_bytes(first.read_bytes()[:-50])
    run = embed_corpus(subset, moved, profile=str(tiny), devices='cpu')
    assert run.plan.models[0].damaged == n[0] and f'{first} cannot be read' in str(run.plan)
    second.unlink()
    run = embed_corpus(subset, moved, profile=str(tiny), devices='cpu')
    assert run.plan.models[0].damaged == n[1] and f'{second} is missing' in str(run.plan) and summary_of(moved, 'subset')['models'][0]['damaged'] == n[1]
    again = lines_of(moved)
    assert [line['id'] for line in again] == [line['id'] for line in plain]
    assert min(np.dot(a['embedding'], b['embedding']) for a,b in zip(again, plain, strict=True)) > .99999
