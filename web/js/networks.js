// Which networks and enlargements this site has, and which the user chose; the choice is remembered.

const USUAL = 4;

/** The networks that scripts/web.py put here: [{ id, label, scales }]. */
export async function availableNetworks() {
  const answer = await fetch('models/networks.json', { cache: 'no-cache' });
  if (!answer.ok) throw new Error('No network is in place: models/networks.json is missing. Run "make web" first.');
  return answer.json();
}

/** The wanted network and enlargement where they exist; else the first network, and of its enlargements 4 or the largest. */
export function pickNetwork(networks, { network, scale } = {}) {
  const picked = networks.find(({ id }) => id === network) ?? networks[0];
  const by = [scale, USUAL].find((value) => picked.scales.includes(value)) ?? Math.max(...picked.scales);
  return { network: picked.id, scale: by };
}

/** The folder of a network in models/. */
export const folderOf = ({ network, scale }) => `${network}_x${scale}`;
