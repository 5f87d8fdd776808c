"""The dashboard of a recorded run, for the page that shows it: `<!-- recorded: half -->` becomes a picture of it.

tests/record_two_t4s.py made the recording; its first line says when, where and how."""
import json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT/'nbs/guides/recorded_two_t4s.jsonl'
MARK = re.compile(r'^<!-- recorded: (\w+) -->$', re.M)
SAYS = dict(half='while the second model computes', end='at the end')

def read_recording(file=FILE):
    "What a recording says of itself, and its events."
    from coderank_qdrant.events import read_metrics
    return json.loads(file.read_text(encoding='utf-8').partition('\n')[0]), read_metrics(file)[0]

def so_long(events, share):
    "The events until a share of the tokens was computed, with what the cards said next."
    tokens = [event.get('tokens', 0)/event['all_tokens'] if event.name == 'batch' else 0 for event in events]
    at = next(i for i,done in enumerate(tokens) if done >= share)
    sample = next(i for i in range(at, len(events)) if events[i].name == 'sample')
    return events[:sample + 1]

def moment(events, name):
    "The events that a picture is made of."
    return events if name == 'end' else so_long(events, dict(half=.6)[name])

def dashboard(events, name):
    "The dashboard at a moment of the run, as the notebook draws it."
    from coderank_qdrant.dashboard import dashboard_html
    from coderank_qdrant.view import view_of
    return dashboard_html(view_of(moment(events, name)))

def label(about, name):
    "What is seen, and that it is a recording."
    return (f'The dashboard {SAYS[name]}. Recorded on {about["recorded"]} with <code>{about["command"]}</code> '
            f'({about["machine"]}). Memory is counted as on a T4, and a processor does the computing, so times and '
            'speeds are not those of a T4.')

def with_dashboards(text):
    "A page with the pictures in the places of their marks."
    if not MARK.search(text): return text
    sys.path.insert(0, str(ROOT))
    about, events = read_recording()
    def drawn(mark):
        caption = f'<figcaption>{label(about, mark[1])}</figcaption>'
        return f'````{{raw}} html\n<figure class="recorded">{dashboard(events, mark[1])}{caption}</figure>\n````'
    return MARK.sub(drawn, text)
