// The console's one script: searching, fetching, and renewing the figures. The number of a patient goes out in bodies
// only and is kept in this page's memory only. Fragments of HTML come from this node, escaped there. A regulator's page has neither search nor fetch.
'use strict';

const REFRESH_MS = 5000;
const by = id => document.getElementById(id);
let searched = '';

async function post(path, body) {
  return fetch(path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
}

function notice(target, title, text, kind) {
  const box = document.createElement('div');
  box.className = 'notice ' + kind;
  const strong = document.createElement('strong');
  strong.textContent = title;
  const words = document.createElement('p');
  words.textContent = text;
  box.append(strong, words);
  target.replaceChildren(box);
}

by('history-form')?.addEventListener('submit', async event => {
  event.preventDefault();
  const target = by('history');
  const id = by('kind').value + by('number').value.trim();
  target.textContent = 'Searching…';
  try {
    const response = await post('/console/history', { id });
    const text = await response.text();
    if (!response.ok) {
      notice(target, 'The search was not done', text, 'bad');
      return;
    }
    searched = id;
    target.innerHTML = text;
  } catch {
    notice(target, 'The search was not done', 'This node does not answer.', 'bad');
  }
});

by('history')?.addEventListener('click', event => {
  const button = event.target.closest('button.fetch');
  if (!button) return;
  by('fetch-form').dataset.study = button.dataset.study;
  by('fetch-form').dataset.holder = button.dataset.holder;
  by('fetch-form').dataset.newer = button.dataset.newer;
  by('fetch-what').textContent = button.dataset.what;
  by('fetch-result').replaceChildren();
  by('fetch-go').disabled = false;
  by('fetch-dialog').showModal();
});

by('fetch-cancel')?.addEventListener('click', () => by('fetch-dialog').close());

by('fetch-form')?.addEventListener('submit', async event => {
  event.preventDefault();
  const study = by('fetch-form').dataset.study;
  const result = by('fetch-result');
  by('fetch-go').disabled = true;
  notice(result, 'Asking the holder…', 'The images follow once it has agreed.', 'plain');
  try {
    const response = await post('/console/fetch', {
      study,
      id: searched,
      purpose: by('purpose').value,
      user: by('user').value.trim(),
      holder: by('fetch-form').dataset.holder,
      newer: by('fetch-form').dataset.newer === 'true',
    });
    if (!response.ok) {
      notice(result, 'It was not asked for', await response.text(), 'bad');
      return;
    }
    const answer = await response.json();
    notice(result, answer.title, answer.text, answer.opened ? 'good' : 'bad');
    if (answer.opened) {
      window.location.assign('/viewer?StudyInstanceUIDs=' + encodeURIComponent(study));
    }
  } catch {
    notice(result, 'It could not be fetched', 'This node does not answer.', 'bad');
  } finally {
    by('fetch-go').disabled = false;
  }
});

async function refresh() {
  if (document.hidden) return;
  try {
    const response = await fetch('/console/status');
    if (response.ok) by('live').innerHTML = await response.text();
    document.body.classList.toggle('offline', !response.ok);
  } catch {
    document.body.classList.add('offline');
  }
}
setInterval(refresh, REFRESH_MS);
