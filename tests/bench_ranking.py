"""Measure ranking: each rule alone and all together, ways of fusing, and weights halved and doubled, on questions made from code and docs.

    python tests/bench_ranking.py [--folder DIR] [--corpus CORPUS | --run RUN] [--judged FILE] [--speed]

The code is of installed packages, with the docstrings taken out of their functions: the first sentence of one is a question, and the
function it was taken from is the answer. Names of functions and classes, and names of files, are questions too. Weights were looked at
with the packages `SETTLED`; those of `CHECKED` are the second look. The demo corpus has judged questions in people's words, and some made
from its headings and names. So have documents: CORPUS is a folder of chunk files, RUN a finished run over one, and FILE has questions over
it, tests/judged.jsonl by default, which is for the corpus this project was made for. What was embedded stays in DIR, so that the second
time is quick. --speed measures time, and nothing else."""
import argparse, ast, json, random, re, sys, tempfile, time
from collections import Counter, defaultdict
from pathlib import Path
import numpy as np
from fastcore.basics import AttrDict
from coderank_qdrant.chunking import chunk_tokenizer, chunk_tree, demo_corpus, find_documents
from coderank_qdrant.evaluate import K, interval, score_answers, with_interval
from coderank_qdrant.fusion import FUSIONS, found_lists, fused, ranked_texts
from coderank_qdrant.hits import fetch_hits
from coderank_qdrant.index import index_run
from coderank_qdrant.judged import asked_lines, check_known, make_queries, read_queries
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.questions import query_lists
from coderank_qdrant.ranking import RULES, WEIGHTS, name_words, rank_hits
from coderank_qdrant.search import DEPTH, POOL, find_hits
from coderank_qdrant.stores import opened

SETTLED = 'fastcore,sentence-transformers'
CHECKED = 'tornado,click,httpx,starlette,jinja2'
CACHE = Path.home()/'.cache/coderank_qdrant_bench'
JUDGED, JUDGED_CODE = (Path(__file__).with_name(name) for name in ('judged.jsonl', 'judged_code.jsonl'))
MOST = 120 # questions of a kind
SYMBOL = '{}', 'where is {} defined', 'how does {} work', '{} implementation'
FILE = '{}', 'where is the {} code', '{} handling'

def docstring_nodes(tree):
    "Functions and classes with a docstring, each with the node of it."
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str): yield node, first

def first_sentence(text):
    "What a docstring begins with, without markup."
    plain = ' '.join(re.sub(r':\w+:`~?([^`]*)`|[`*]', r'\1', text.strip().split('\n\n')[0]).split())
    return re.split(r'(?<=[.!?])\s', plain)[0].rstrip('.: ')

def without_docstrings(source):
    "A module without its functions' docstrings; (name, first sentence) of each."
    lines, found = source.splitlines(keepends=True), []
    for node,doc in docstring_nodes(ast.parse(source)):
        found.append((node.name, first_sentence(doc.value.value)))
        if lines[doc.lineno-1].lstrip() != lines[doc.lineno-1][doc.col_offset:] or not lines[doc.lineno-1].isascii(): continue
        pad = lines[doc.lineno-1][:doc.col_offset]
        rest = lines[doc.end_lineno-1].encode()[doc.end_col_offset:].decode()
        for i in range(doc.lineno-1, doc.end_lineno): lines[i] = ''
        lines[doc.end_lineno-1] = f'{pad}...{rest}' if len(node.body) == 1 else (rest.lstrip(' ;') if rest.strip() else '')
    return ''.join(lines), found

def make_sources(packages, folder):
    "Packages' documents below a folder, docstrings taken out; (path, name, sentence) of each docstring."
    asked = []
    for rel,file in find_documents(f'installed:{packages}').documents:
        text = file.read_text(encoding='utf-8', errors='replace')
        if rel.suffix == '.py':
            try: text, found = without_docstrings(text)
            except SyntaxError: found = []
            asked += [(str(rel), *item) for item in found]
        target = folder/str(rel)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding='utf-8')
    return asked

def made_run(packages, folder):
    "Packages as a collection; (path, name, sentence) of each docstring."
    if not (folder/'asked.json').exists():
        asked = make_sources(packages, folder/'src')
        if not (folder/'tree').exists(): chunk_tree(str(folder/'src'), folder/'tree', chunk_tokenizer())
        embed_corpus(folder/'tree', folder/'out', profile='offline', devices='cpu')
        (folder/'asked.json').write_text(json.dumps(asked))
    index_run(folder/'out', folder/'index')
    return json.loads((folder/'asked.json').read_text())

def demo_run(folder, header='none'):
    "The demo corpus with a header as a finished run, with its collection in `index`."
    out = folder/'demo'/f'header_{header.replace(",", "_")}'
    if not list(out.glob('*_embedding_summary.json')): embed_corpus(demo_corpus(folder), out, profile='offline', devices='cpu', header=header)
    index_run(out, out/'index')
    return out

def definitions(lines):
    "Where each function and class is defined: {name: text hashes}."
    found = defaultdict(list)
    for text,line in lines.items():
        if line['metadata']['content_type'] != 'code': continue
        for name in dict.fromkeys(re.findall(r'^[ \t]*(?:async )?(?:def|class)[ \t]+(\w+)', line['text'], re.M)): found[name].append(text)
    return found

def question(kind, query, gold, lines):
    "A question with its pieces, and the files they are in."
    files = {lines[text]['metadata']['source']: 2 for text in gold}
    return dict(kind=kind, query=query, judgments=dict.fromkeys(gold, 2), files=files)

def docstring_questions(lines, asked, defined):
    "First sentences of docstrings that no other function has."
    places = defaultdict(list)
    for path,name,sentence in asked: places[sentence].append((path, name))
    for sentence,((path, name), *others) in places.items():
        gold = [text for text in defined.get(name, []) if lines[text]['metadata']['source'].endswith(path)]
        if gold and not others and '/test' not in path and 5 <= len(re.findall(r'\w+', sentence)) <= 30:
            yield question('docstring', sentence, gold, lines)

def symbol_questions(lines, defined):
    "Names that are defined in one piece and used in another."
    used = Counter(word for line in lines.values() for word in set(re.findall(r'\w+', line['text'])))
    for name,gold in defined.items():
        plain = len(name) > 3 and not name.startswith('__') and not re.search(r'(^|/)tests?/', lines[gold[0]]['metadata']['source'])
        if plain and len(gold) == 1 and used[name] > 1: yield name, gold

def method_questions(lines):
    "Methods whose name several classes have, as (class.name, the piece that it begins in)."
    found, classes = defaultdict(list), defaultdict(set)
    for text,line in lines.items():
        owner = re.match(r'class (\w+) > ', str(line['metadata'].get('symbol')))
        if not owner or re.search(r'(^|/)tests?/', line['metadata']['source']): continue
        for name in set(re.findall(r'^ {4}(?:async )?def (\w+)', line['text'], re.M)):
            found[f'{owner[1]}.{name}'].append(text)
            classes[name].add(owner[1])
    for method,gold in found.items():
        name = method.split('.')[1]
        if len(gold) == 1 and len(classes[name]) > 2 and not name.startswith('__'): yield method, gold

def file_questions(lines):
    "Names of files, in words, that no other file has."
    named = defaultdict(lambda: defaultdict(list))
    for text,line in lines.items():
        source = line['metadata']['source']
        named[' '.join(name_words(Path(source).stem))][source].append(text)
    for name,sources in named.items():
        (source, gold), *others = sources.items()
        if not others and len(name) > 3 and 'test' not in name and source.endswith('.py'): yield name, gold

def code_questions(out, asked):
    "The questions of a collection of code."
    lines, rng = asked_lines(out), random.Random(0)
    defined = definitions(lines)
    docs, symbols, files = (list(found) for found in (docstring_questions(lines, asked, defined), symbol_questions(lines, defined), file_questions(lines)))
    methods = list(method_questions(lines))
    for found in docs, symbols, files, methods: rng.shuffle(found)
    asked = docs[:MOST]
    asked += [question('symbol', SYMBOL[i % 4].format(name), gold, lines) for i,(name,gold) in enumerate(symbols[:MOST])]
    words = [(' '.join(name_words(name)), gold) for name,gold in symbols[MOST:] if len(name_words(name)) > 1]
    asked += [question('symbol in words', name, gold, lines) for name,gold in words[:MOST//2]]
    asked += [question('method', SYMBOL[i % 4].format(name), gold, lines) for i,(name,gold) in enumerate(methods[:MOST//2])]
    asked += [question('file', FILE[i % 3].format(name), gold, lines) for i,(name,gold) in enumerate(files[:MOST//2])]
    return [dict(q, qid=f'{q["kind"]}-{i}') for i,q in enumerate(asked)]

def pools(store, questions):
    "What each way of searching finds for each question, before any rule."
    for q in questions:
        lists, _ = query_lists(q['query'], store.about, device='cpu')
        found = found_lists(store, lists, DEPTH)
        ways = dict(dense=[(n, r) for n,r in found.items() if n != 'bm25'], words=[(n, r) for n,r in found.items() if n == 'bm25'])
        texts = {way: list(part[0][1].items()) if part else [] for way,part in ways.items()}
        texts |= {way: fused(found, way)[:POOL] for way in FUSIONS}
        known = {hit.metadata['text_hash']: hit for hit in fetch_hits(store, [(t, 0) for t in {t for pairs in texts.values() for t,_ in pairs}])}
        yield q, {way: [AttrDict(known[t], score=s) for t,s in pairs] for way,pairs in texts.items()}

def scores_of(asked, way, rules=(), weights=WEIGHTS):
    "nDCG@10 of each question, by piece and by file; NaN where a question has no such answer. Shape (questions, 2)."
    rows = []
    for q,lists in asked:
        hits = rank_hits(lists[way], q['query'], rules, weights)[:K]
        piece = score_answers([hit.metadata['text_hash'] for hit in hits], q['judgments'])[0] if q['kind'] != 'file' else np.nan
        files = list(dict.fromkeys(hit.metadata['source'] for hit in hits))
        rows.append((piece, score_answers(files, q['files'])[0] if 'files' in q else np.nan))
    return np.array(rows)

def cell(mine, base=None):
    "A mean, and what is gained, with its interval."
    if np.isnan(mine).all(): return ''
    if base is None: return with_interval(mine[~np.isnan(mine)])
    low, high = interval(mine - base)
    return f'{np.nanmean(mine):.3f}, {np.nanmean(mine - base):+.3f} ({low:+.3f} to {high:+.3f})'

def kinds_of(questions):
    "Which questions are of a kind, and which of a part of one: {name: bool, shape (questions,)}."
    kinds, parts = (np.array([q.get(key, '') for q in questions]) for key in ('kind', 'part'))
    return {kind: kinds == kind for kind in dict.fromkeys(kinds.tolist())} | {part: parts == part for part in dict.fromkeys(parts.tolist()) if part}

def table(name, asked, weights=True):
    "Every way and every rule, by kind of question; last, all rules held against words and vectors alone."
    masks = kinds_of([q for q,_ in asked])
    base = scores_of(asked, 'scores')
    rows = {way: scores_of(asked, way) for way in ('dense', 'words', *FUSIONS)}
    rows |= {'ranks, all rules': scores_of(asked, 'ranks', RULES), 'all rules': scores_of(asked, 'scores', RULES)}
    rows |= {f'only {rule}': scores_of(asked, 'scores', (rule,)) for rule in RULES}
    for key,factor in [(key, factor) for key in WEIGHTS for factor in (.5, 2)] if weights else []:
        changed = WEIGHTS[key] * factor if key in ('paths', 'prose_paths', 'defines', 'copied', 'files') else min(WEIGHTS[key]**(1/factor), 1)
        rows[f'all, {key} {"halved" if factor < 1 else "doubled"}'] = scores_of(asked, 'scores', RULES, {**WEIGHTS, key: changed})
    parts = [(kind, part, i) for kind in masks for i,part in enumerate(('piece', 'file'))]
    parts = [p for p in parts if not np.isnan(base[masks[p[0]], p[2]]).all()]
    print(f'\n{name}, nDCG@{K}\n\n| | ' + ' | '.join(f'{kind}, by {part} ({masks[kind].sum()})' for kind,part,_ in parts) + ' |\n' + '|---' * (len(parts) + 1) + '|')
    for label,mine in rows.items():
        held = rows['all rules'] if label.startswith('all, ') else None if label in ('dense', 'words', 'scores') else base
        cells = [cell(mine[masks[kind], i], None if held is None else held[masks[kind], i]) for kind,_,i in parts]
        print(f'| {label} | ' + ' | '.join(cells) + ' |', flush=True)
    for way in 'words', 'dense':
        cells = [cell(rows['all rules'][masks[kind], i], rows[way][masks[kind], i]) for kind,_,i in parts]
        print(f'| all rules, against {way} | ' + ' | '.join(cells) + ' |', flush=True)
    right = [rank_hits(lists['scores'], q['query'])[0].metadata['text_hash'] in q['judgments'] for q,lists in asked if q['kind'] == 'symbol']
    if right: print(f'\nThe first hit of a symbol question is right in {np.mean(right):.1%}.')

def sureness(store, name, asked):
    "The scores of the first hits: of this collection's questions, and of questions that nothing answers."
    other = 'how to cook pasta with tomato sauce', 'symptoms of the flu in children', 'knitting pattern for a sweater', 'guitar chords for beginners', \
            '\u4eca\u65e5\u306e\u5929\u6c17\u306f\u3069\u3046\u3067\u3059\u304b', '\u043a\u0430\u043a \u043f\u0440\u0438\u0433\u043e\u0442\u043e\u0432\u0438\u0442\u044c \u0431\u043e\u0440\u0449', 'best hotels in Paris near the river', 'who won the world cup in 1998', 'mortgage interest rates', 'dog training tips'
    def firsts(queries): return np.array([find_hits(q, store, query_lists(q, store.about, device='cpu')[0], 1)[0].score for q in queries])
    for label,queries in ('its own', [q['query'] for q,_ in asked][::4]), ('nothing answers', other):
        low, middle, high = np.percentile(firsts(queries), [10, 50, 90])
        print(f'{name}, questions of which {label}: score of the first hit, 10% {low:.2f}, median {middle:.2f}, 90% {high:.2f}', flush=True)

def speed(points):
    "Milliseconds of a hybrid question, with and without rules, in one collection, turn by turn; the packaged model reads it each time."
    from bench_search import EdgeStore, Peak, about_of, fill, made_vectors
    from coderank_qdrant.models import find_model
    from coderank_qdrant.questions import folder_state, loaded_model, query_vector
    from coderank_qdrant.words import bm25_model, query_words
    card, weights, _ = find_model('all-MiniLM-L6-v2')
    model = loaded_model(card, weights, 'cpu', folder_state(weights))
    with tempfile.TemporaryDirectory() as folder, EdgeStore(Path(folder)/'index') as store:
        store.create(about_of(False))
        draw = made_vectors(points)
        fill(store, draw, points, Peak())
        store.finish()
        query = 'load point find vector'
        words = [('bm25', query_words(bm25_model(), query))]
        took = defaultdict(list)
        for vector in draw(120, 10**9):
            lists = [('made', vector), *words]
            ways = {'before': lambda ls=lists: fetch_hits(store, ranked_texts(store, ls, 5)),
                    'no rules': lambda ls=lists: find_hits(query, store, ls, 5, ranking='none'), 'all rules': lambda ls=lists: find_hits(query, store, ls, 5)}
            for way,call in ways.items():
                start = time.perf_counter()
                query_vector(*model, query)
                read = time.perf_counter()
                call()
                took[way].append((1000 * (time.perf_counter() - start), 1000 * (time.perf_counter() - read)))
        p50 = {way: np.median(times[20:], 0) for way,times in took.items()}
        print(f'{points:,} points, p50: ' + ', '.join(f'{way} {whole:.1f} ms ({alone:.1f} without the model)' for way,(whole,alone) in p50.items()), flush=True)

def judged_questions(file):
    "Questions of a file, as one kind; in `part` the kinds that it tells apart."
    return [{**q, 'kind': 'judged', 'part': q['kind'] if file == JUDGED_CODE else ''} for q in read_queries(file)]

def lots(args):
    "Every lot of questions that can be asked: {name: (index, questions)}."
    def wanted(lot): return args.only in (None, lot)
    folder, found = args.folder, {}
    if wanted('demo'):
        out = demo_run(folder)
        found['the demo corpus'] = out/'index', judged_questions(JUDGED_CODE) + make_queries(out, MOST//2)
    for name,packages in ('settled', SETTLED), ('checked', CHECKED):
        if not wanted(name): continue
        asked = made_run(packages, folder/name)
        found[packages] = folder/name/'index', code_questions(folder/name/'out', asked)
    run = args.run
    if args.corpus: run = embed_corpus(args.corpus, folder/'documents', profile='offline', devices='cpu')
    if run and wanted('documents'):
        index_run(run, folder/'docs_index')
        there = asked_lines(run)
        judged = [q for q in judged_questions(args.judged) if not there.keys().isdisjoint(q['judgments'])]
        found['documents'] = folder/'docs_index', judged + make_queries(run, MOST//2)
    return found

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--folder', type=Path, default=CACHE)
    p.add_argument('--corpus', type=Path, help='a folder of chunk files, which is embedded with the packaged model')
    p.add_argument('--run', type=Path, help='the output folder of a run over documents')
    p.add_argument('--judged', type=Path, default=JUDGED, help='questions over those documents')
    p.add_argument('--only', choices=('demo', 'settled', 'checked', 'documents'), help='one of the lots of questions')
    p.add_argument('--rules_only', action='store_true', help='leave out the rows with a weight halved or doubled')
    p.add_argument('--speed', action='store_true')
    p.add_argument('--points', type=int, default=10_000)
    args = p.parse_args()
    if args.speed: return speed(args.points)
    print(f'{time.strftime("%Y-%m-%d")}, python {" ".join(sys.argv)}')
    for name,(index,questions) in lots(args).items():
        questions = [q for q in questions if any(q['judgments'].values())]
        with opened(index) as store:
            lost = check_known(questions, store, strict=False)
            if lost: print(f'{name}: {lost} questions have a judged text that is not there, which counts as not found.')
            asked = list(pools(store, questions))
            table(name, asked, not args.rules_only)
            sureness(store, name, asked)

if __name__ == '__main__': main()
