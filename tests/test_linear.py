"Time is linear in what is given: a megabyte in under a second, and twice as much takes about twice as long."
import random, time
from itertools import product
import pytest
from coderank_qdrant.content import fenced_share, guess_type, is_navigation, link_spans
from coderank_qdrant.hits import best_stretch, marked, natural, snippet, word_spans
from coderank_qdrant.judged import headings
from coderank_qdrant.ranking import asked_owners, begins, defined_names

def show(text):
    spans = word_spans(text, 'upload points to the index')
    return marked(text, spans, *snippet(text, spans))

WORK = dict(fences=fenced_share, guess=guess_type, navigation=is_navigation, links=link_spans, snippet=show, headings=headings,
            names=lambda text: defined_names(text, dict(content_type='docs')), symbol=lambda text: defined_names('', dict(symbol=text + '!')),
            owners=asked_owners, begins=lambda text: begins('x', text, text))
PIECES = ['upload points ', 'upload [index](http://a.b/c) ', '`', '~', '# a ', ' #', '[', '[a](', '<', '(', 'x', 'aB1_', ' ', '\n', '# a\n', '```\n', '```a\n', '@a', 'a=', '"']

def seconds(work, start, piece, size):
    text = start + piece * (size // len(piece)) + 'x'
    begin = time.process_time()
    work(text)
    return time.process_time() - begin

@pytest.mark.parametrize('name', WORK)
def test_a_megabyte_in_a_second(name):
    for start,piece in product(['', '# a'], PIECES):
        small, large = (seconds(WORK[name], start, piece, size) for size in (20_000, 40_000))
        assert large < .05 or large < 3 * small, f'{name} of {piece!r}: {small:.3f} s, and {large:.3f} s for twice as much'
        whole = seconds(WORK[name], start, piece, 1_000_000)
        assert whole < 2, f'{name} of {piece!r}: {whole:.1f} s'

def slow_stretch(text, spans, width):
    "The same choice, made the long way."
    linked = [0] * (len(text) + width)
    for start,end in link_spans(text): linked[start:end] = [1] * (end - start)
    def worth(at): return len({word for first,last,word in spans if at <= first and last <= at + width}), -sum(linked[at:at+width]), -at
    return max((start for start,_,_ in spans), key=worth, default=0)

def test_the_stretch_is_the_best_one():
    rng = random.Random(0)
    for _ in range(300):
        text = ' '.join(rng.choice(['upload', 'points', 'index', 'x' * rng.randrange(1, 9), '[upload points](http://a.b/c)', 'uploading_points_' * 5])
                        for _ in range(rng.randrange(60)))
        spans, width = word_spans(text, 'upload points to the index'), rng.randrange(3, 90)
        assert best_stretch(text, spans, width) == slow_stretch(text, spans, width)

def test_any_digits_in_an_id():
    ids = ['a:d:' + '7' * 5000 + '.md:chunk:0', 'a:d:m1\u00b22.md:chunk:0', 'a:d:2.md:chunk:10', 'a:d:2.md:chunk:9']
    assert sorted(ids, key=natural)[:3] == ['a:d:2.md:chunk:9', 'a:d:2.md:chunk:10', ids[0]]
