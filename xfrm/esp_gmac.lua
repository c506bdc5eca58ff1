-- ESP with AES-GMAC (RFC 4543) for Wireshark, which has no such algorithm: opens the SAs that stand behind "# " in the
-- esp_sa file named by the preference esp_gmac.sa_file, checks their integrity, and leaves all other ESP to Wireshark.

local esp = Proto("esp_gmac", "ESP with AES-GMAC")
esp.prefs.sa_file = Pref.string("SA file", "", "An esp_sa file; lines after # with AES-GMAC [RFC4543] are read")

local field = {
  spi = ProtoField.uint32("esp.spi", "ESP SPI", base.HEX_DEC),
  sequence = ProtoField.uint32("esp.sequence", "ESP Sequence"),
  iv = ProtoField.bytes("esp.iv", "ESP IV"),
  pad = ProtoField.bytes("esp.pad", "Pad"),
  pad_length = ProtoField.uint8("esp.pad_len", "ESP Pad Length"),
  protocol = ProtoField.uint8("esp.protocol", "ESP Next Header", base.HEX),
  icv = ProtoField.bytes("esp.icv", "ESP ICV"),
  good = ProtoField.bool("esp.icv_good", "Good"),
  bad = ProtoField.bool("esp.icv_bad", "Bad"),
}
do
  local all = {}
  for _, each in pairs(field) do all[#all + 1] = each end
  esp.fields = all
end

local bit = bit or bit32
local band, bor, bxor, lshift, rshift = bit.band, bit.bor, bit.bxor, bit.lshift, bit.rshift

-- AES-128, encryption only (FIPS 197)

local SBOX = {}
do
  local p, q = 1, 1
  repeat
    p = band(bxor(p, lshift(p, 1), p >= 128 and 0x11b or 0), 0xff)
    q = bxor(q, lshift(q, 1))
    q = bxor(q, lshift(q, 2))
    q = band(bxor(q, lshift(q, 4)), 0xff)
    if q >= 128 then q = bxor(q, 0x09) end
    local x = bxor(q, lshift(q, 1), lshift(q, 2), lshift(q, 3), lshift(q, 4))
    SBOX[p] = bxor(band(bxor(x, rshift(x, 8)), 0xff), 0x63)
  until p == 1
  SBOX[0] = 0x63
end

local function expanded(key)
  local words = {}
  for i = 1, 16 do words[i] = key[i] end
  local constant = 1
  for place = 16, 175, 4 do
    local a, b, c, d = words[place - 3], words[place - 2], words[place - 1], words[place]
    if place % 16 == 0 then
      a, b, c, d = bxor(SBOX[b], constant), SBOX[c], SBOX[d], SBOX[a]
      constant = band(bxor(lshift(constant, 1), constant >= 128 and 0x11b or 0), 0xff)
    end
    words[place + 1] = bxor(words[place - 15], a)
    words[place + 2] = bxor(words[place - 14], b)
    words[place + 3] = bxor(words[place - 13], c)
    words[place + 4] = bxor(words[place - 12], d)
  end
  return words
end

local function twice(x) return band(bxor(lshift(x, 1), x >= 128 and 0x11b or 0), 0xff) end

local function encrypt(words, block)
  local state = {}
  for i = 1, 16 do state[i] = bxor(block[i], words[i]) end
  for round = 1, 10 do
    local shifted = {}
    for column = 0, 3 do
      for row = 0, 3 do
        shifted[column * 4 + row + 1] = SBOX[state[(column + row) % 4 * 4 + row + 1]]
      end
    end
    if round < 10 then
      for column = 0, 3 do
        local at = column * 4
        local a, b, c, d = shifted[at + 1], shifted[at + 2], shifted[at + 3], shifted[at + 4]
        local all = bxor(a, b, c, d)
        shifted[at + 1] = bxor(a, all, twice(bxor(a, b)))
        shifted[at + 2] = bxor(b, all, twice(bxor(b, c)))
        shifted[at + 3] = bxor(c, all, twice(bxor(c, d)))
        shifted[at + 4] = bxor(d, all, twice(bxor(d, a)))
      end
    end
    for i = 1, 16 do state[i] = bxor(shifted[i], words[round * 16 + i]) end
  end
  return state
end

-- GHASH by tables of four bits (NIST SP 800-38D 6.4); an element is four words of 32 bits

local function word(octets, at)
  return bor(lshift(octets[at], 24), lshift(octets[at + 1], 16), lshift(octets[at + 2], 8), octets[at + 3])
end

local function halved(a, b, c, d)
  local low = band(d, 1)
  d = bor(rshift(d, 1), lshift(c, 31))
  c = bor(rshift(c, 1), lshift(b, 31))
  b = bor(rshift(b, 1), lshift(a, 31))
  a = rshift(a, 1)
  if low == 1 then a = bxor(a, 0xe1000000) end
  return a, b, c, d
end

local REDUCED = {}
for nibble = 0, 15 do
  local a, b, c, d = 0, 0, 0, nibble
  for _ = 1, 4 do a, b, c, d = halved(a, b, c, d) end
  REDUCED[nibble] = a
end

local function multiples(h)
  local of = { [0] = { 0, 0, 0, 0 } }
  local a, b, c, d = word(h, 1), word(h, 5), word(h, 9), word(h, 13)
  for _, place in ipairs({ 8, 4, 2, 1 }) do
    of[place] = { a, b, c, d }
    a, b, c, d = halved(a, b, c, d)
  end
  for nibble = 1, 15 do
    if not of[nibble] then
      local sum = { 0, 0, 0, 0 }
      for _, place in ipairs({ 8, 4, 2, 1 }) do
        if band(nibble, place) ~= 0 then
          for i = 1, 4 do sum[i] = bxor(sum[i], of[place][i]) end
        end
      end
      of[nibble] = sum
    end
  end
  return of
end

local function multiplied(of, x)
  local a, b, c, d = 0, 0, 0, 0
  for i = 4, 1, -1 do
    local part = x[i]
    for shift = 0, 28, 4 do
      local low = REDUCED[band(d, 15)]
      d = bor(rshift(d, 4), lshift(c, 28))
      c = bor(rshift(c, 4), lshift(b, 28))
      b = bor(rshift(b, 4), lshift(a, 28))
      a = bxor(rshift(a, 4), low)
      local add = of[band(rshift(part, shift), 15)]
      a, b, c, d = bxor(a, add[1]), bxor(b, add[2]), bxor(c, add[3]), bxor(d, add[4])
    end
  end
  return a, b, c, d
end

local function octets_of(raw)
  local octets = {}
  for i = 1, #raw do octets[i] = raw:byte(i) end
  return octets
end

-- The ICV of RFC 4543: GCM over nothing, with all of the packet before it as additional data
local function icv_of(sa, raw)
  local octets = octets_of(raw)
  local length = #octets
  local nonce = { sa.salt[1], sa.salt[2], sa.salt[3], sa.salt[4] }
  for i = 1, 8 do nonce[4 + i] = octets[8 + i] end
  nonce[13], nonce[14], nonce[15], nonce[16] = 0, 0, 0, 1
  while #octets % 16 ~= 0 do octets[#octets + 1] = 0 end
  local a, b, c, d = 0, 0, 0, 0
  for at = 1, #octets, 16 do
    local x = {
      bxor(a, word(octets, at)), bxor(b, word(octets, at + 4)),
      bxor(c, word(octets, at + 8)), bxor(d, word(octets, at + 12)),
    }
    a, b, c, d = multiplied(sa.multiples, x)
  end
  a, b, c, d = multiplied(sa.multiples, { a, bxor(b, length * 8), c, d })
  local mask = encrypt(sa.words, nonce)
  local icv = {}
  for i, part in ipairs({ a, b, c, d }) do
    for place = 0, 3 do
      local at = (i - 1) * 4 + place + 1
      icv[at] = string.char(bxor(band(rshift(part, 24 - 8 * place), 0xff), mask[at]))
    end
  end
  return table.concat(icv)
end

-- The SAs

local sas = {}

local function load()
  sas = {}
  local name = esp.prefs.sa_file
  local file = name ~= "" and io.open(name)
  if not file then return end
  for line in file:lines() do
    if line:find("AES%-GMAC %[RFC4543%]") then
      local columns = {}
      for column in line:gmatch('"([^"]*)"') do columns[#columns + 1] = column end
      local spi = tonumber(columns[4] or "")
      local hex = (columns[8] or ""):match("^0x(%x+)$")
      if spi and hex and #hex == 40 then
        local key, salt = {}, {}
        for i = 1, 20 do
          local octet = tonumber(hex:sub(2 * i - 1, 2 * i), 16)
          if i <= 16 then key[i] = octet else salt[i - 16] = octet end
        end
        local words = expanded(key)
        local zero = {}
        for i = 1, 16 do zero[i] = 0 end
        sas[spi] = sas[spi] or {}
        table.insert(sas[spi], {
          destination = columns[3], words = words, salt = salt, multiples = multiples(encrypt(words, zero)),
        })
      end
    end
  end
  file:close()
end

function esp.init() load() end
function esp.prefs_changed() load() end

local table_of_protocols = DissectorTable.get("ip.proto")
local wireshark = Dissector.get("esp")
local HEADER, IV, ICV = 8, 8, 16

function esp.dissector(tvb, pinfo, tree)
  local of_spi = tvb:captured_len() >= HEADER + IV + 2 + ICV and sas[tvb(0, 4):uint()]
  if not of_spi or tvb:captured_len() < tvb:reported_len() then return wireshark:call(tvb, pinfo, tree) end
  local length = tvb:captured_len()
  local raw = tvb:raw(0, length - ICV)
  local icv = tvb:raw(length - ICV, ICV)
  local good = false
  local destination = tostring(pinfo.net_dst)
  for _, sa in ipairs(of_spi) do
    if sa.destination == "*" or sa.destination == destination then good = good or icv_of(sa, raw) == icv end
  end
  pinfo.cols.protocol = "ESP"
  local top = tree:add(esp, tvb(), "Encapsulating Security Payload, AES-GMAC")
  top:add(field.spi, tvb(0, 4))
  top:add(field.sequence, tvb(4, 4))
  top:add(field.iv, tvb(HEADER, IV))
  local pad_length = tvb(length - ICV - 2, 1):uint()
  local next_header = tvb(length - ICV - 1, 1):uint()
  local payload = length - HEADER - IV - 2 - ICV - pad_length
  if pad_length > 0 and payload >= 0 then top:add(field.pad, tvb(HEADER + IV + payload, pad_length)) end
  top:add(field.pad_length, tvb(length - ICV - 2, 1))
  top:add(field.protocol, tvb(length - ICV - 1, 1))
  local check = top:add(field.icv, tvb(length - ICV, ICV))
  check:add(field.good, tvb(length - ICV, ICV), good):set_generated()
  check:add(field.bad, tvb(length - ICV, ICV), not good):set_generated()
  if payload > 0 then
    local inner = tvb(HEADER + IV, payload):tvb()
    if not table_of_protocols:try(next_header, inner, pinfo, tree) then
      Dissector.get("data"):call(inner, pinfo, tree)
    end
  end
  return length
end

table_of_protocols:set(50, esp)
